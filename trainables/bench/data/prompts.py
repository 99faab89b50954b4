"""How the rows of known data sets become questions with choices, or a source and a target.

A row of a table below is chosen by the columns that are present. A choice is what follows the
prompt, character by character, so that its likelihood is that of its own tokens. The prompts are
those of the published depth-pruning comparisons.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

from trainables.core.errors import DataError

Row: TypeAlias = dict[str, Any]


ANSWERS = frozenset(("answer", "answerKey", "label", "correct"))
HIDDEN = ("", -1, "-1")  # the answer of a row in a test split that is not public


@dataclass(frozen=True)
class Question:
    """A prompt, the ways it may go on, and the number of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Pair:
    """What a model reads and what it should write."""

    source: str
    target: str


@dataclass(frozen=True)
class Template:
    """One known form of a row."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Any]


def _after(prompt: str, choices: Collection[object], answer: int) -> Question:
    """Choices that follow the prompt after a space."""
    if not 0 <= answer < len(choices):
        raise DataError(
            f"the answer to {prompt!r} is choice {answer}; it has 0 to {len(choices) - 1}"
        )
    return Question(prompt, tuple(f" {str(choice).strip()}" for choice in choices), answer)


def _question(text: str, choices: Collection[object], answer: int) -> Question:
    return _after(f"Question: {text.strip()}\nAnswer:", choices, answer)


def _given(row: Row) -> Question:
    answer, choices = row["answer"], list(row["choices"])
    number = choices.index(answer) if answer in choices else int(answer)
    return _after(row["prompt"].rstrip(" "), choices, number)


def _winogrande(row: Row) -> Question:
    before, _, rest = row["sentence"].partition("_")
    filled = [f"{row[f'option{number}']}{rest}" for number in (1, 2)]
    return _after(before.rstrip(" "), filled, int(row["answer"]) - 1)


def _piqa(row: Row) -> Question:
    return _question(row["goal"], [row["sol1"], row["sol2"]], int(row["label"]))


def _hellaswag(row: Row) -> Question:
    asked = _untagged(f"{row['activity_label']}: {row['ctx']}")
    return _question(asked, [_untagged(text) for text in row["endings"]], int(row["label"]))


def _untagged(text: str) -> str:
    """Without the [header] and [title] marks that WikiHow leaves in HellaSwag."""
    return re.sub(r"\[.*?\]", "", text.replace(" [title]", ". ")).replace("  ", " ")


def _boolq(row: Row) -> Question:
    asked = row["question"].strip().rstrip("?")
    prompt = f"{row['passage'].strip()}\nQuestion: {asked}?\nAnswer:"
    return _after(prompt, ["False", "True"], int(row["answer"]))


def _arc(row: Row) -> Question:
    choices, right = row["choices"], row["answerKey"]
    return _question(row["question"], choices["text"], list(choices["label"]).index(right))


def _openbookqa(row: Row) -> Question:
    return _arc({**row, "question": row["question_stem"]})


def _social_iqa(row: Row) -> Question:
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    return _question(f"{row['context']} {row['question']}", choices, int(row["label"]) - 1)


def _math_qa(row: Row) -> Question:
    found = re.findall(r"([a-e]) \) (.*?)(?= , [a-e] \) |$)", row["options"])
    letters = [letter for letter, _ in found]
    return _question(row["Problem"], [text for _, text in found], letters.index(row["correct"]))


def _template(name: str, columns: str, read: Callable[[Row], Any]) -> Template:
    return Template(name, frozenset(columns.split()), read)


QUESTIONS: tuple[Template, ...] = (
    _template("prompt and choices", "prompt choices answer", _given),
    _template("WinoGrande", "sentence option1 option2 answer", _winogrande),
    _template("PIQA", "goal sol1 sol2 label", _piqa),
    _template("HellaSwag", "activity_label ctx endings label", _hellaswag),
    _template("BoolQ", "passage question answer", _boolq),
    _template("ARC, CommonsenseQA", "question choices answerKey", _arc),
    _template("OpenBookQA", "question_stem choices answerKey", _openbookqa),
    _template("Social IQa", "context question answerA answerB answerC label", _social_iqa),
    _template("MathQA", "Problem options correct", _math_qa),
)


def _answered(row: Row) -> Pair:
    """Ask the question that an answer answers (question generation)."""
    answer = row["answer"] if "answer" in row else row["answers"]["text"][0]
    return Pair(f"answer: {answer} context: {row['context']}", row["question"])


PAIRS: tuple[Template, ...] = (
    _template("source and target", "source target", lambda r: Pair(r["source"], r["target"])),
    _template("SQuAD question generation", "context question answer", _answered),
    _template("SQuAD question generation", "context question answers", _answered),
)


def choose(templates: tuple[Template, ...], columns: Collection[str]) -> Template:
    """The first template whose columns are all there."""
    for template in templates:
        if template.columns <= set(columns):
            return template
    forms = "; ".join(f"{each.name}: {', '.join(sorted(each.columns))}" for each in templates)
    raise DataError(
        f"the data set has the columns {', '.join(columns)}, which is none of the known forms "
        f"({forms}). Map them with [data.columns]"
    )


def classify(text: str, labels: tuple[str, ...], label: int) -> Question:
    """A classification row as a question whose choices are the class names."""
    return _after(f"{text.strip()}\nLabel:", [name.replace("_", " ") for name in labels], label)
