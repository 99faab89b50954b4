"""How the rows of known data sets become questions with choices.

A row of a table below is chosen by the columns that are present. A choice is what follows the
prompt, character by character, so that its likelihood is that of its own tokens. The prompts are
those of the published depth-pruning comparisons, with the space around texts taken away;
`published` has them exactly as they were published.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias

from trainables.bench.data.columns import Row, RowError
from trainables.core.errors import DataError

HIDDEN = ("", -1, "-1", None)  # the answer of a row in a test split that is not public
_TRUTHS = {"true": True, "yes": True, "t": True, "y": True, "1": True}
_TRUTHS |= {"false": False, "no": False, "f": False, "n": False, "0": False}
Choices: TypeAlias = Collection[object]


@dataclass(frozen=True)
class Question:
    """A prompt, the ways it may go on, and the number of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    contexts: tuple[str, ...] = ()  # a prompt for each choice, where they are not asked alike
    lengths: tuple[int, ...] = ()  # of the choices in the data set, where that is not as below

    @property
    def characters(self) -> tuple[int, ...]:
        """How long each choice is, the space in front of it left out."""
        return self.lengths or tuple(len(choice.removeprefix(" ")) for choice in self.choices)

    @property
    def asked(self) -> str:
        """What is known before the choices are: the prompt, or what the choices begin with."""
        first, *others = self.contexts or self.choices
        same = takewhile(lambda letters: len(set(letters)) == 1, zip(first, *others, strict=False))
        return self.prompt or "".join(letters[0] for letters in same)


@dataclass(frozen=True)
class Template:
    """One known form of a row."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Any]


def checked(question: Question) -> Question:
    """The question; RowError if it cannot be asked."""
    if len(question.choices) < 2 or not all(choice.strip() for choice in question.choices):
        raise RowError("fewer than two choices, or an empty one")
    if not 0 <= question.answer < len(question.choices):
        raise RowError("an answer that is none of the choices")
    return question


def texts(choices: Choices) -> list[str]:
    """The choices as text; one that is missing is an empty one, which nobody can choose."""
    return ["" if choice is None else str(choice) for choice in choices]


def _after(prompt: str, choices: Choices, answer: int) -> Question:
    """Choices that follow the prompt after a space."""
    return checked(Question(prompt, tuple(f" {text.strip()}" for text in texts(choices)), answer))


def _question(text: str, choices: Choices, answer: int) -> Question:
    return _after(f"Question: {said(text)}\nAnswer:", choices, answer)


def said(text: object) -> str:
    """A text without the space around it; RowError if there is nothing else."""
    if not str(text).strip():
        raise RowError("an empty text")
    return str(text).strip()


def known(answer: Any) -> Any:
    """The answer; RowError if it is hidden, as in test splits that are not public."""
    if answer in HIDDEN:
        raise RowError("no answer")
    return answer


def number(answer: Any) -> int:
    """The number of a choice, from 0, that an answer or a letter names."""
    text = str(int(answer) if isinstance(answer, float) else answer).strip()
    if len(text) == 1 and text.isascii() and text.isupper():
        return ord(text) - ord("A")
    try:
        return int(text)
    except ValueError:
        raise RowError("an answer that is none of the choices") from None


def labelled(labels: Iterable[object], key: object) -> int:
    """The number of the choice that has this label."""
    names = [str(label).strip() for label in labels]
    wanted = str(key).strip()
    if wanted in names:
        return names.index(wanted)
    known(key)
    return -1


def truth(answer: Any) -> bool:
    """Yes or no, however it is written."""
    found = _TRUTHS.get(str(known(answer)).strip().lower())
    if found is None:
        raise RowError("an answer that is neither true nor false")
    return found


def by_value(rows: Iterable[Row]) -> bool:
    """Whether answers are one of the choices, or else a choice's number from 0.

    Where both could be, a text is the choice and a number its number.
    """
    fits = [_fits(row["answer"], row["choices"]) for row in rows if row["answer"] is not None]
    values, numbers = (sum(fit[which] for fit in fits) for which in (0, 1))
    texts = sum(fit[2] for fit in fits)
    return values > numbers or (values == numbers and 2 * texts > len(fits))


def _fits(answer: Any, choices: Choices | None) -> tuple[bool, bool, bool]:
    try:
        counted = 0 <= number(answer) < len(choices or ())
    except RowError:
        counted = False
    return str(answer) in map(str, choices or ()), counted, isinstance(answer, str)


def given(value: bool, ask: Callable[[str, Choices, int], Question] | None = None) -> Template:
    """Rows that say what to ask.

    Args:
        value: an answer is one of the choices, not its number.
        ask: makes the question; ours strips what is around the texts.
    """

    def read(row: Row) -> Question:
        choices = list(row["choices"])
        answer = row["answer"]
        right = labelled(choices, answer) if value else number(known(answer))
        if ask is not None:
            return ask(row["prompt"], choices, right)
        return _after(row["prompt"].rstrip(" "), choices, right)

    return template(GIVEN, "prompt choices answer", read)


GIVEN = "prompt and choices"


def _winogrande(row: Row) -> Question:
    before, blank, rest = row["sentence"].partition("_")
    if not blank:
        raise RowError("a sentence without a blank")
    filled = [f"{row[f'option{number}']}{rest}" for number in (1, 2)]
    return _after(before.rstrip(" "), filled, number(known(row["answer"])) - 1)


def _piqa(row: Row) -> Question:
    return _question(row["goal"], [row["sol1"], row["sol2"]], number(known(row["label"])))


def _hellaswag(row: Row) -> Question:
    asked = untagged(f"{row['activity_label']}: {row['ctx']}")
    endings = [untagged(text) for text in row["endings"]]
    return _question(asked, endings, number(known(row["label"])))


def untagged(text: str) -> str:
    """Without the [header] and [title] marks that WikiHow leaves in HellaSwag."""
    return re.sub(r"\[.*?\]", "", text.replace(" [title]", ". ")).replace("  ", " ")


def _boolq(row: Row) -> Question:
    asked = said(row["question"]).rstrip("?")
    prompt = f"{said(row['passage'])}\nQuestion: {asked}?\nAnswer:"
    right = row["answer"] if "answer" in row else row["label"]
    return _after(prompt, ["False", "True"], int(truth(right)))


def _arc(row: Row) -> Question:
    choices = row["choices"]
    return _question(row["question"], choices["text"], labelled(choices["label"], row["answerKey"]))


def _openbookqa(row: Row) -> Question:
    return _arc({**row, "question": row["question_stem"]})


def _social_iqa(row: Row) -> Question:
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    return _question(
        f"{row['context']} {row['question']}", choices, number(known(row["label"])) - 1
    )


def options_of(text: str) -> dict[str, str]:
    """MathQA's `a ) 1 , b ) 2`, by letter."""
    return dict(re.findall(r"([a-e]) \) (.*?)(?= , [a-e] \) |$)", text))


def _math_qa(row: Row) -> Question:
    found = options_of(row["options"])
    return _question(row["Problem"], list(found.values()), labelled(found, row["correct"]))


def template(name: str, columns: str, read: Callable[[Row], Any]) -> Template:
    """A form by the columns it needs, in one string."""
    return Template(name, frozenset(columns.split()), read)


QUESTIONS: tuple[Template, ...] = (
    given(False),
    template("WinoGrande", "sentence option1 option2 answer", _winogrande),
    template("PIQA", "goal sol1 sol2 label", _piqa),
    template("HellaSwag", "activity_label ctx endings label", _hellaswag),
    template("BoolQ", "passage question answer", _boolq),
    template("BoolQ", "passage question label", _boolq),
    template("ARC, CommonsenseQA", "question choices answerKey", _arc),
    template("OpenBookQA", "question_stem choices answerKey", _openbookqa),
    template("Social IQa", "context question answerA answerB answerC label", _social_iqa),
    template("MathQA", "Problem options correct", _math_qa),
)


def choose(templates: tuple[Template, ...], columns: Collection[str], named: str = "") -> Template:
    """The first template whose columns are all there.

    Args:
        named: what the known forms are called, for the message.
    """
    for one in templates:
        if one.columns <= set(columns):
            return one
    forms = "; ".join(f"{each.name}: {', '.join(sorted(each.columns))}" for each in templates)
    here = ", ".join(dict.fromkeys(columns))
    raise DataError(
        f"the data set has the columns {here}, which is none of the known {named}"
        f"forms ({forms}). Map them with [data.columns]"
    )


def classify(text: str, labels: tuple[str, ...], label: int) -> Question:
    """A classification row as a question whose choices are the class names."""
    return _after(f"{said(text)}\nLabel:", [name.replace("_", " ") for name in labels], label)
