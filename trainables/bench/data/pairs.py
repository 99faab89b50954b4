"""How rows become a text that is read and a text to write: by a study's own prompt, or as the forms
that are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from trainables.bench.data.columns import Columns, Row, RowError, reach
from trainables.bench.data.prompts import Template, said, template
from trainables.core.errors import DataError, near
from trainables.core.spec import template_fields


@dataclass(frozen=True)
class Pair:
    """What a model reads and what it should write.

    Attributes:
        parts: the source in pieces; every second one is a row's own text, which may be shortened.
    """

    source: str
    target: str
    parts: tuple[str, ...] = field(default=(), compare=False)

    def shorter(self, share: float) -> "Pair":
        """The same with its longest own text cut at the end; `share` of that is left."""
        parts = list(self.parts or ("", self.source))
        longest = max(range(1, len(parts), 2), key=lambda at: len(parts[at]))
        parts[longest] = parts[longest][
            : min(int(len(parts[longest]) * share), len(parts[longest]) - 1)
        ]
        return Pair("".join(parts), self.target, tuple(parts))

    @property
    def shortest(self) -> bool:
        """Whether nothing is left that could be cut."""
        return not any((self.parts or ("", self.source))[1::2])


class Prompt:
    """A text with columns in braces, as `[data] prompt` gives it.

    `{question}` is the column's text; a row without one is no item. `{input?}` may be empty. Dots
    lead into tables and lists: `{turns.0.text}`.
    """

    def __init__(self, text: str, columns: Columns, dataset: str) -> None:
        self.text = text
        self.pieces = [(before, name) for before, name, _, _ in Formatter().parse(text)]
        self.columns = {name: _column(name, columns, dataset) for name in template_fields(text)}

    @property
    def needed(self) -> list[str]:
        """The columns that no row may lack."""
        return [column for name, column in self.columns.items() if not name.endswith("?")]

    def parts(self, row: Row) -> tuple[str, ...]:
        """What is asked of a row, in pieces: fixed text and the row's own in turn."""
        found: list[str] = []
        for before, name in self.pieces:
            found.append(before)
            if name is not None:
                found.append(self._value(row, name))
        return tuple(found)

    def _value(self, row: Row, name: str) -> str:
        column = self.columns[name]
        value = reach(row, column)
        if isinstance(value, Mapping | list | tuple):
            raise RowError(f'a list or table in column "{column}"')
        text = "" if value is None else str(value)
        if not name.endswith("?") and not text.strip():
            raise RowError(f'an empty text in column "{column}"')
        return text


def _column(name: str, columns: Columns, dataset: str) -> str:
    """The column that a name in braces means."""
    word = name.removesuffix("?")
    if word in columns:
        return columns.name(word)
    if columns.feature(word) is not None:
        return word
    raise DataError(
        f'[data] prompt: "{{{word}}}": "{dataset}" has no such column{near(word, columns.names)}',
        allowed=", ".join(columns.names),
        do=f'name it in the prompt, or map it: [data.columns] {word} = "..."',
    )


# -- what is to be written -----------------------------------------------------------------------


def target_of(value: Any) -> str:
    """The text to write: of several answers the first. RowError where there is none."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = next((one for one in value if str(one or "").strip()), None)
        return target_of(value) if isinstance(value, Mapping) else _told(value)
    return _told(value)


def _told(value: Any) -> str:
    if value is None:
        raise RowError("no answer")
    said(value)
    return str(value)


# -- known forms ---------------------------------------------------------------------------------


def _answered(row: Row) -> Pair:
    """Ask the question that an answer answers (question generation)."""
    answer = target_of(row["answer"] if "answer" in row else row["answers"])
    said(row["context"])
    said(row["question"])
    return Pair(f"answer: {answer} context: {row['context']}", row["question"])


def _given_pair(row: Row) -> Pair:
    said(row["source"])
    return Pair(str(row["source"]), target_of(row["target"]))


def _instructed(row: Row) -> Pair:
    """Alpaca's layout (Taori et al. 2023): an instruction, perhaps with an input."""
    task, given = said(row["instruction"]), str(row.get("input") or "").strip()
    parts = ("", task, "\n\n", given) if given else ("", task)
    return Pair("".join(parts), target_of(row["output"]), parts)


def _plainly_instructed(row: Row) -> Pair:
    """The same for a model without turns: its headings say where the answer begins."""
    task, given = said(row["instruction"]), str(row.get("input") or "").strip()
    more = ("\n\n### Input:\n", given) if given else ()
    parts = ("### Instruction:\n", task, *more, "\n\n### Response:\n")
    return Pair("".join(parts), target_of(row["output"]), parts)


def _questioned(row: Row) -> Pair:
    asked = said(row["question"])
    return Pair(asked, target_of(row["answer"]), ("", asked))


def _plainly_questioned(row: Row) -> Pair:
    parts = ("Question: ", said(row["question"]), "\nAnswer:")
    return Pair("".join(parts), target_of(row["answer"]), parts)


_ALPACA, _QA = "instruction, input and output", "question and answer"
PAIRS: tuple[Template, ...] = (
    template(_ALPACA, "instruction output", _plainly_instructed),
    template("source and target", "source target", _given_pair),
    template("SQuAD question generation", "context question answer", _answered),
    template("SQuAD question generation", "context question answers", _answered),
    template(_QA, "question answer", _plainly_questioned),
)
CHATS = {_ALPACA: _instructed, _QA: _questioned}  # the same as a turn of a chat
OPTIONAL = {_ALPACA: ("input",)}  # columns that a form reads where they are
