"""What every task does to a data set: rows become items, and items the batches a model takes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import datasets

from trainables.bench.data.columns import Columns, Row
from trainables.core.spec import DataSpec, Role
from trainables.core.types import Batch

Item = TypeVar("Item")


class TaskAdapter(ABC, Generic[Item]):
    """One task on one data set: how rows become items, and items a batch."""

    words: ClassVar[dict[str, tuple[str, ...]]]  # the task's words, and other names they go by
    keeps_order: ClassVar[bool] = False  # where a role has a split of its own
    labels: tuple[str, ...] = ()  # class names
    encoder_decoder: bool = False  # whether the model reads and writes apart

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        self.spec, self.processor = spec, processor
        self.columns = Columns(spec, tables[0], self.words)
        self.needed = self.columns.names_of(self.words)  # no row without a value there is used

    @abstractmethod
    def key(self, row: Row) -> bytes:
        """What makes a row the same as another, whatever its label."""

    @abstractmethod
    def item(self, row: Row) -> Item:
        """The row as an item of the task."""

    @abstractmethod
    def batch(self, items: Sequence[Item], role: Role) -> Batch:
        """Tensors for `model(**batch)`."""

    def usable(self, row: Row) -> bool:
        """Whether the row holds all it should."""
        return all(row[name] is not None for name in self.needed)

    def size(self, item: Item) -> int:
        """About how long an item is, where items differ."""
        return 0

    def items(self, rows: Iterator[Row], count: int) -> list[Item]:
        """Draw `count` items from the rows, or as many as there are."""
        return [self.item(row) for row in islice(rows, count)]


def folded(text: str) -> bytes:
    """The text without regard to case and spacing, to tell repeated rows."""
    return " ".join(text.split()).casefold().encode()
