"""Sharing rows out over roles: none serves two, however often it is repeated.

Rows that share a context (a passage with several questions, a premise with several hypotheses)
stay in one role. What is held out depends on nothing but its own count and the seed.
"""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets

from trainables.bench.data.columns import Row, RowError, holds_text
from trainables.bench.data.tasks.adapter import TaskAdapter, folded
from trainables.bench.data.tasks.windows import LanguageModelling, Window
from trainables.core.errors import DataError, near
from trainables.core.spec import DataSpec, Role

log = logging.getLogger(__name__)
MEASURED: tuple[Role, ...] = ("search", "held_out")
NO_GROUP = "none"
_CONTEXTS = ("context", "passage", "premise", "paragraph", "article", "document", "support")
_FEW = 8  # so many contexts at least, for four roles


@dataclass
class Taken:
    """The rows and contexts that are given away already, to share between data sets."""

    rows: set[bytes] = field(default_factory=set)
    contexts: dict[bytes, Role] = field(default_factory=dict)


@dataclass
class Skipped:
    """Rows that hold no item: how many for which reason, and where the first one is."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Count one."""
        self.reasons[reason] += 1
        self.first.setdefault(reason, where)

    def __str__(self) -> str:
        parts = (
            f"{n} with {reason} (first: {self.first[reason]})" for reason, n in self._counted()
        )
        return "; ".join(parts)

    def _counted(self) -> Sequence[tuple[str, int]]:
        return self.reasons.most_common()


class Drawing:
    """Draws each role's items in turn from the splits they come from."""

    def __init__(
        self,
        adapter: TaskAdapter[Any],
        splits: Mapping[str, datasets.Dataset],
        where: Mapping[Role, str],
        seed: int,
        taken: Taken,
    ) -> None:
        self.adapter, self.splits, self.where = adapter, splits, where
        self.seed, self.taken = seed, taken
        self.skipped, self._told = Skipped(), 0
        self.context = context_column(adapter, [splits[name] for name in set(where.values())])
        self._role: Role = "held_out"
        self._rows: dict[str, Iterator[Row]] = {}
        self._windows: dict[str, Iterator[Window]] = {}

    def draw(self, role: Role) -> list[Any]:
        """The items of a role: as many as it asks for, or all that are left."""
        self._role = role
        split, count = self.where[role], getattr(self.adapter.spec.items, role)
        if isinstance(self.adapter, LanguageModelling) and self.adapter.spec.windows == "joined":
            if split not in self._windows:
                self._windows[split] = self.adapter.joined(self.splits[split])
            return list(islice(self._windows[split], count))
        if split not in self._rows:
            self._rows[split] = self._stream(split)
        items = self.adapter.items(self._rows[split], count)
        self._tell()
        return sorted(items, key=self.adapter.size, reverse=True) if role in MEASURED else items

    def _stream(self, split: str) -> Iterator[Row]:
        table = self.splits[split]
        for number in self._order(split):
            row = table[number]
            try:
                key = _hashed(self.adapter.key(row))
            except RowError as error:
                self.skipped.add(str(error), f"row {number} of {split}")
                continue
            places = {key, _hashed(f"{self._source(split)} {number}".encode())}
            if not places & self.taken.rows and self._free(row):
                self.taken.rows |= places
                yield row

    def _source(self, split: str) -> str:
        return f"{self.adapter.spec.dataset} {self.adapter.spec.subset} {split}"

    def _order(self, split: str) -> list[int]:
        """Shuffled, with the rows of one context together: fewest contexts lie on a border."""
        alone = list(self.where.values()).count(split) == 1
        order = list(range(len(self.splits[split])))
        if alone and self.adapter.keeps_order:
            return order
        random.Random(f"{self.seed} {split}").shuffle(order)
        if self.context is None:
            return order
        texts = self.splits[split].select_columns([self.context])[:][self.context]
        together: dict[bytes, list[int]] = {}
        for number in order:
            together.setdefault(folded(str(texts[number])), []).append(number)
        return [number for numbers in together.values() for number in numbers]

    def _free(self, row: Row) -> bool:
        """Whether no other role has the row's context."""
        if self.context is None:
            return True
        key = _hashed(folded(str(row[self.context])))
        return self.taken.contexts.setdefault(key, self._role) == self._role

    def _tell(self) -> None:
        if (count := self.skipped.reasons.total()) > self._told:
            self._told = count
            log.warning(
                '"%s": rows that are passed over: %s', self.adapter.spec.dataset, self.skipped
            )


def _hashed(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16).digest()


def context_column(adapter: TaskAdapter[Any], tables: Sequence[datasets.Dataset]) -> str | None:
    """The column whose equal values stay in one role: the longest text read that repeats.

    A text that half of the rows share is no context but an instruction. `[data] group` names the
    column, or "none".
    """
    spec = adapter.spec
    if spec.group is not None:
        return _named(spec, tables)
    read = [name for name in adapter.columns.names_of(adapter.contexts) if name in adapter.needed]
    shared = {name: length for name in read if (length := _shared(tables, name))}
    named = [name for name in shared if name.lower() in _CONTEXTS]
    return max(named or shared, key=lambda name: shared[name], default=None)


def _named(spec: DataSpec, tables: Sequence[datasets.Dataset]) -> str | None:
    if spec.group == NO_GROUP:
        return None
    names = tables[0].column_names
    if spec.group not in names:
        raise DataError(
            f'[data] group = "{spec.group}": "{spec.dataset}" has no such column'
            f"{near(str(spec.group), names)}",
            allowed=f'{", ".join(names)}, or "{NO_GROUP}"',
        )
    return spec.group


def _shared(tables: Sequence[datasets.Dataset], name: str) -> float:
    """How long a column's texts are on average; 0 where they are not contexts of several rows."""
    if not all(holds_text(table.features.get(name)) for table in tables):
        return 0.0
    counts = Counter(
        folded(text)
        for table in tables
        for text in table.select_columns([name])[:][name]
        if text is not None
    )
    rows = counts.total()
    if len(counts) in (0, rows) or len(counts) < _FEW or max(counts.values()) > rows / 2:
        return 0.0
    return sum(len(text) * count for text, count in counts.items()) / rows
