"""The data of a bench: rows shared out over roles, and made into batches.

No row serves two roles, in whatever split it lies and however often it is repeated: held_out draws
first, then search, calibration and train, and a row whose text was seen is passed over. So what is
held out depends on nothing but its own count and the seed.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, get_args

from trainables.bench.data.adapter import TaskAdapter
from trainables.bench.data.columns import Row
from trainables.bench.data.images import ImageClassification
from trainables.bench.data.sources import Splits, open_splits
from trainables.bench.data.tasks import (
    Classification,
    Generation,
    LanguageModelling,
    MultipleChoice,
)
from trainables.core.errors import DataError, near
from trainables.core.spec import DataSpec, Role, Task
from trainables.core.types import Batch

MEASURED: tuple[Role, ...] = ("search", "held_out")
_DRAWING_ORDER: tuple[Role, ...] = ("held_out", "search", "calibration", "train")
_FORMS: dict[Task, type[TaskAdapter[Any]]] = {
    "language-modelling": LanguageModelling,
    "classification": Classification,
    "multiple-choice": MultipleChoice,
    "image-classification": ImageClassification,
    "generation": Generation,
}


class Data:
    """Items and batches by role; see `tasks` for what they hold."""

    def __init__(
        self, spec: DataSpec, form: TaskAdapter[Any], draw: Callable[[Role], list[Any]]
    ) -> None:
        self.spec, self.form = spec, form
        self.task: Task = spec.task
        self.labels = form.labels  # class names; () where there are none
        self._draw = draw
        self._items: dict[Role, list[Any]] = {}
        self._batches: dict[Role, list[Batch]] = {}
        self._fingerprints: dict[Role, str] = {}

    def items(self, role: Role) -> list[Any]:
        """The task's items before they become tensors, in the order of the batches.

        For search and held_out the longest come first, so that batches hold little padding.
        """
        for each in _DRAWING_ORDER[: _DRAWING_ORDER.index(role) + 1]:
            if each not in self._items:
                self._items[each] = self._draw(each)
        wanted, found = getattr(self.spec.items, role), self._items[role]
        if len(found) < wanted:
            raise DataError(
                f'[data.items] {role} = {wanted}: "{self.spec.dataset}" has only {len(found)} '
                f"left for it{_shares(self.spec, role)}. Ask for fewer, here or for another role"
            )
        return found

    def batches(self, role: Role) -> list[Batch]:
        """Batches on the CPU, ready for `model(**batch)`; made once."""
        if role not in self._batches:
            items, size = self.items(role), self.spec.batch_size
            starts = range(0, len(items), size)
            self._batches[role] = [self.form.batch(items[i : i + size], role) for i in starts]
        return self._batches[role]

    def fingerprint(self, role: Role) -> str:
        """A hash of the exact tensors, and so of the rows, the tokenizer and the batch size."""
        if role not in self._fingerprints:
            self._fingerprints[role] = self._hash(role)
        return self._fingerprints[role]

    def _hash(self, role: Role) -> str:
        digest = hashlib.sha256(f"{self.task} {self.labels}".encode())
        for batch in self.batches(role):
            for name, tensor in sorted(batch.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def load_data(spec: DataSpec, processor: Any, seed: int, *, encoder_decoder: bool = True) -> Data:
    """Open the data set and share it out.

    Args:
        processor: the model's tokenizer or image processor; None for images as they are.
        encoder_decoder: for generation, whether the model writes apart from what it reads (T5).

    Raises:
        DataError: the data set is not there, not of the task's form, or too small. Rows to train
            on are drawn, and missed, only when they are asked for: not every study trains.
    """
    if processor is None and spec.task != "image-classification":
        raise DataError(f"{spec.task} needs the model's tokenizer, and the model has none")
    splits = open_splits(spec)
    where = _places(spec, splits)
    tables = [splits[name] for name in dict.fromkeys(where.values())]
    form = _FORMS[spec.task](spec, processor, tables)
    form.encoder_decoder = encoder_decoder
    data = Data(spec, form, _drawing(form, splits, where, seed))
    for role in _DRAWING_ORDER[:-1]:
        data.items(role)
    return data


def _places(spec: DataSpec, splits: Splits) -> dict[Role, str]:
    """The split each role draws from: its own, or `train`, or the only one there is."""
    for role, name in spec.splits.items():
        if name not in splits:
            raise DataError(
                f'[data.splits] {role} = "{name}": "{spec.dataset}" has no such split'
                f"{near(name, splits)}; it has {', '.join(splits)}"
            )
    shared = next(iter(splits)) if len(splits) == 1 else "train"
    roles: tuple[Role, ...] = get_args(Role)
    where = {role: spec.splits.get(role, shared) for role in roles}
    if missing := [role for role in roles if where[role] not in splits]:
        raise DataError(
            f'"{spec.dataset}" has no split "train" to share out; it has {", ".join(splits)}. '
            f"Name a split for {', '.join(missing)} in [data.splits]"
        )
    return where


def _drawing(
    form: TaskAdapter[Any], splits: Splits, where: dict[Role, str], seed: int
) -> Callable[[Role], list[Any]]:
    seen: set[bytes] = set()

    @cache
    def stream(split: str) -> Iterator[Row]:
        alone = list(where.values()).count(split) == 1
        order = list(range(len(splits[split])))
        if not (alone and form.keeps_order):
            random.Random(f"{seed} {split}").shuffle(order)
        return _unseen(form, (splits[split][number] for number in order), seen)

    def draw(role: Role) -> list[Any]:
        items = form.items(stream(where[role]), getattr(form.spec.items, role))
        return sorted(items, key=form.size, reverse=True) if role in MEASURED else items

    return draw


def _unseen(form: TaskAdapter[Any], rows: Iterator[Row], seen: set[bytes]) -> Iterator[Row]:
    for row in rows:
        if form.usable(row):
            key = hashlib.blake2b(form.key(row), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                yield row


def _shares(spec: DataSpec, role: Role) -> str:
    others = [other for other in _DRAWING_ORDER if other != role and other not in spec.splits]
    if role in spec.splits or not others:
        return f' in split "{spec.splits.get(role)}"'
    taken = ", ".join(f"{getattr(spec.items, other)} for {other}" for other in others)
    return f", beside {taken}"
