"""Questions asked exactly as others published them, by name; nothing is stripped.

- `pudding`: the loops that find PuDDing's omission sets and score its router's data. WinoGrande is
  scored as a whole sentence, from its first token on.
- `pudding-questions`: the same, but WinoGrande is asked as a question, as in its augmented loops.
- `lm-eval`: EleutherAI's lm-evaluation-harness, zero-shot. White space at the end of a prompt
  belongs to what follows it, as there. WinoGrande scores the same ending after either option.
"""

import re
from collections.abc import Mapping

from trainables.bench.data.columns import Row, RowError
from trainables.bench.data.prompts import (
    QUESTIONS,
    Choices,
    Question,
    Template,
    checked,
    given,
    known,
    labelled,
    number,
    said,
    template,
    texts,
    truth,
    untagged,
)
from trainables.core.spec import Prompts


def asked(prompt: str, choices: Choices, answer: int) -> Question:
    """Choices that follow the prompt after a space, and after what white space ends it."""
    said(prompt)
    kept = prompt.rstrip()
    named = texts(choices)
    between = f"{prompt[len(kept) :]} "
    lengths = tuple(map(len, named)) if between != " " else ()
    return checked(Question(kept, tuple(between + one for one in named), answer, lengths=lengths))


def _piqa(row: Row) -> Question:
    choices = [row["sol1"], row["sol2"]]
    return asked(f"Question: {row['goal']}\nAnswer:", choices, number(known(row["label"])))


def _arc(row: Row) -> Question:
    choices = row["choices"]
    right = labelled(choices["label"], row["answerKey"])
    return asked(f"Question: {row['question']}\nAnswer:", choices["text"], right)


def _boolq(row: Row, names: tuple[str, str]) -> Question:
    right = row["answer"] if "answer" in row else row["label"]
    prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return asked(prompt, names, int(truth(right)))


# -- PuDDing -------------------------------------------------------------------------------------


def _whole_sentence(row: Row) -> Question:
    choices = tuple(said(row["sentence"]).replace("_", row[f"option{n}"]) for n in (1, 2))
    filled = tuple(row["sentence"].replace("_", row[f"option{n}"]) for n in (1, 2))
    if choices[0] == choices[1]:
        raise RowError("a sentence without a blank")
    return checked(Question("", filled, number(known(row["answer"])) - 1))


def _sentence_asked(row: Row) -> Question:
    choices = [row["option1"], row["option2"]]
    prompt = f"Question: {row['sentence']}\nAnswer:"
    return asked(prompt, choices, number(known(row["answer"])) - 1)


def _pudding_hellaswag(row: Row) -> Question:
    prompt = f"Question: {row['activity_label']}: {row['ctx']}\nAnswer:"
    return asked(prompt, row["endings"], number(known(row["label"])))


def _pudding_math_qa(row: Row) -> Question:
    prompt = f"Problem: {row['Problem']}\nOptions: {row['options']}\\Answer:"  # the \ is theirs
    return asked(prompt, "abcde", labelled("abcde", row["correct"]))


def _true(row: Row) -> Question:
    return _boolq(row, ("False", "True"))


PUDDING: tuple[Template, ...] = (
    given(False, asked),
    template("WinoGrande", "sentence option1 option2 answer", _whole_sentence),
    template("PIQA", "goal sol1 sol2 label", _piqa),
    template("HellaSwag", "activity_label ctx endings label", _pudding_hellaswag),
    template("BoolQ", "passage question answer", _true),
    template("BoolQ", "passage question label", _true),
    template("ARC", "question choices answerKey", _arc),
    template("MathQA", "Problem options correct", _pudding_math_qa),
)
_ASKED = template("WinoGrande", "sentence option1 option2 answer", _sentence_asked)

# -- lm-evaluation-harness -----------------------------------------------------------------------


def _either_option(row: Row) -> Question:
    before, blank, rest = row["sentence"].partition("_")
    if not blank:
        raise RowError("a sentence without a blank")
    contexts, choices = [], []
    for option in (row["option1"], row["option2"]):
        one = f"{before}{option}"
        contexts.append(one.rstrip())
        choices.append(f"{one[len(one.rstrip()) :]} {rest.strip()}")
    right = number(known(row["answer"])) - 1
    return checked(Question(before.rstrip(), tuple(choices), right, contexts=tuple(contexts)))


def _harness_hellaswag(row: Row) -> Question:
    # the second half begins with a capital and goes on in small letters
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
    prompt = untagged(f"{row['activity_label']}: {context}".strip())
    endings = [untagged(text.strip()) for text in row["endings"]]
    return asked(prompt, endings, number(known(row["label"])))


def _openbookqa(row: Row) -> Question:
    choices = row["choices"]
    right = labelled(choices["label"], row["answerKey"])
    return asked(row["question_stem"], choices["text"], right)


def _commonsense_qa(row: Row) -> Question:
    letters, places = "ABCDE", row["choices"]["text"]
    if len(places) != len(letters):
        raise RowError("not five choices")
    listed = "".join(f"\n{letter}. {text}" for letter, text in zip(letters, places, strict=True))
    prompt = f"Question: {said(row['question'])}{listed}\nAnswer:"
    return asked(prompt, letters, labelled(letters, row["answerKey"]))


def _social_iqa(row: Row) -> Question:
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    prompt = f"Q: {row['context']} {row['question']}\nA:"
    return asked(prompt, choices, number(known(row["label"])) - 1)


def _harness_math_qa(row: Row) -> Question:
    found = re.findall(r"[a-d] \) (.*?), |e \) (.*)", row["options"])  # to the first comma, or all
    choices = [(part or rest).rstrip(" ,") for part, rest in found]
    return asked(f"Question: {row['Problem']}\nAnswer:", choices, labelled("abcde", row["correct"]))


def _yes(row: Row) -> Question:
    return _boolq(row, ("no", "yes"))


LM_EVAL: tuple[Template, ...] = (
    given(False, asked),
    template("WinoGrande", "sentence option1 option2 answer", _either_option),
    template("PIQA", "goal sol1 sol2 label", _piqa),
    template("HellaSwag", "activity_label ctx_a ctx_b endings label", _harness_hellaswag),
    template("BoolQ", "passage question answer", _yes),
    template("BoolQ", "passage question label", _yes),
    template("CommonsenseQA", "question question_concept choices answerKey", _commonsense_qa),
    template("ARC", "question choices answerKey", _arc),
    template("OpenBookQA", "question_stem choices answerKey", _openbookqa),
    template("Social IQa", "context question answerA answerB answerC label", _social_iqa),
    template("MathQA", "Problem options correct", _harness_math_qa),
)

FORMS: Mapping[Prompts, tuple[Template, ...]] = {
    "rayduce": QUESTIONS,
    "pudding": PUDDING,
    "pudding-questions": tuple(_ASKED if one.name == "WinoGrande" else one for one in PUDDING),
    "lm-eval": LM_EVAL,
}
