"""What every task does to a data set: rows become items, and items the batches a model takes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import datasets

from trainables.bench.data.columns import Columns, Labels, Row, RowError, Words, reach
from trainables.core.spec import DataSpec, Role
from trainables.core.types import Batch, Writing

Item = TypeVar("Item")


class TaskAdapter(ABC, Generic[Item]):
    """One task on one data set: how rows become items, and items a batch."""

    words: ClassVar[dict[str, tuple[str, ...]]]  # the task's words, and other names they go by
    nested: ClassVar[bool] = False  # whether words are looked for in tables inside rows too
    required: ClassVar[tuple[str, ...]] = ()  # words that there must be a column for
    prose: ClassVar[tuple[str, ...]] = ()  # words whose columns hold text
    contexts: tuple[str, ...] = ()  # of those, the ones that several rows may share
    keeps_order: ClassVar[bool] = False  # where a role has a split of its own
    classes: Labels | None = None  # where rows have one
    encoder_decoder: bool = False  # whether the model reads and writes apart

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        self.spec, self.processor = spec, processor
        self.columns = Columns(spec, tables[0], self.vocabulary(spec), nested=self.nested)
        for word in self.required:
            self.columns.name(word)
        self.needed = self.columns.names_of(self.words)  # no row without a value there is used

    def vocabulary(self, spec: DataSpec) -> Words:
        """The words that a data set's columns may be named for."""
        return self.words

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; () where there are none."""
        return () if self.classes is None else self.classes.names

    @abstractmethod
    def key(self, row: Row) -> bytes:
        """What makes a row the same as another, whatever its label. RowError if it is no item."""

    @abstractmethod
    def item(self, row: Row) -> Item:
        """The row as an item of the task. RowError says why it is none."""

    @abstractmethod
    def batch(self, items: Sequence[Item], role: Role) -> Batch:
        """Tensors for `model(**batch)`."""

    @property
    def writing(self) -> Writing:
        """What ends a text, where texts are written."""
        return Writing()

    def check(self, row: Row) -> None:
        """Raises RowError if the row lacks what it should hold."""
        for name in self.needed:
            if reach(row, name) is None:
                raise RowError(f'nothing in column "{name}"')

    def size(self, item: Item) -> int:
        """About how long an item is, where items differ."""
        return 0

    def items(self, rows: Iterator[Row], count: int) -> list[Item]:
        """Draw `count` items from the rows, or as many as there are."""
        return [self.item(row) for row in islice(rows, count)]

    def read(self) -> dict[str, str]:
        """The task's words, and the columns that are read for them."""
        return {word: name for word, name in self.columns.items() if name in self.needed}

    def describe(self) -> dict[str, Any]:
        """How rows become items, for records."""
        return {"columns": self.read(), "not read": self.columns.texts_but(self.read().values())}


def folded(text: str) -> bytes:
    """The text without regard to case and spacing, to tell repeated rows."""
    return " ".join(text.split()).casefold().encode()
