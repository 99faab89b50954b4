"""Language modelling: running text, cut into windows of tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import torch

from trainables.bench.data.columns import Row, RowError
from trainables.bench.data.tasks.adapter import TaskAdapter, folded
from trainables.bench.data.tokenize import Ids, opening, plain_ids
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Role
from trainables.core.types import Batch


@dataclass(frozen=True)
class Window:
    """`max_length` tokens of running text, from one or more documents of one role."""

    ids: tuple[int, ...]


class LanguageModelling(TaskAdapter[Window]):
    """Documents one after another, cut into windows.

    A role with a split of its own reads it in order, as published perplexities do. What a role
    leaves of a document is dropped, so that no document serves two roles.

    With `windows = "joined"` all is as in the published perplexities: every row of the split, as
    it is, joined by empty lines, tokenized once, cut into windows of which no two overlap.
    """

    keeps_order = True
    required = ("text",)
    prose = ("text",)
    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("content", "document", "article", "sentence")
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        self.columns.must_be_text(self.prose)

    def key(self, row: Row) -> bytes:
        return folded(self._text(row))

    def item(self, row: Row) -> Window:
        return Window(tuple(self._ids(row)))

    def _text(self, row: Row) -> str:
        self.check(row)
        text = str(row[self.columns.name("text")]).strip()
        if not text:
            raise RowError("an empty text")
        return text

    def _ids(self, row: Row) -> Ids:
        return plain_ids(self.processor, f"{self._text(row)}\n\n")

    def items(self, rows: Iterator[Row], count: int) -> list[Window]:
        """Each window opens with what the tokenizer puts before a text (Gemma needs its BOS)."""
        start = opening(self.processor)
        length = self._length() - len(start)
        if length < 2:
            raise DataError(f"[data] max_length = {self.spec.max_length}: allowed is 2 and more")
        found: list[Window] = []
        left: Ids = []
        while len(found) < count:
            while len(left) < length and (row := next(rows, None)) is not None:
                left += self._ids(row)
            if len(left) < length:
                break
            found.append(Window((*start, *left[:length])))
            left = left[length:]
        return found

    def joined(self, rows: Iterable[Row]) -> Iterator[Window]:
        """The windows of all rows as they are; what is left at the end fills none."""
        name, length = self.columns.name("text"), self._length()
        text = "\n\n".join(str(row[name]) for row in rows if row[name] is not None)
        ids: Ids = self.processor(text)["input_ids"]
        for start in range(0, len(ids) - length + 1, length):
            yield Window(tuple(ids[start : start + length]))

    def _length(self) -> int:
        if self.spec.max_length < 2:
            raise DataError(f"[data] max_length = {self.spec.max_length}: allowed is 2 and more")
        return self.spec.max_length

    def describe(self) -> dict[str, Any]:
        forms = {
            "documents": "documents stripped, each once, shuffled where roles share a split; every "
            "window opens with what the tokenizer puts before a text",
            "joined": "as published: all rows of the split as they are, joined by empty lines and "
            "tokenized once",
        }
        return super().describe() | {"windows": forms[self.spec.windows]}

    def batch(self, items: Sequence[Window], role: Role) -> Batch:
        ids = torch.tensor([item.ids for item in items])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
