"""The data of a bench: rows shared out over roles, and made into batches."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import datasets

from trainables.bench.data.sources import Splits, open_splits
from trainables.bench.data.split import MEASURED, Drawing, Taken
from trainables.bench.data.tasks.adapter import TaskAdapter, folded
from trainables.bench.data.tasks.generation import Generation
from trainables.bench.data.tasks.images import ImageClassification
from trainables.bench.data.tasks.text import Classification, Labelled, MultipleChoice
from trainables.bench.data.tasks.windows import LanguageModelling
from trainables.bench.data.tokenize import unknown_id
from trainables.bench.data.unlabelled import raw_texts
from trainables.core.errors import DataError, near
from trainables.core.spec import AUTO, USUAL, DataSpec, Role, Task, TextsSpec
from trainables.core.types import IGNORED, Batch, Writing

log = logging.getLogger(__name__)
_DRAWING_ORDER: tuple[Role, ...] = ("held_out", "search", "calibration", "train")
_ADAPTERS: dict[Task, type[TaskAdapter[Any]]] = {
    "language-modelling": LanguageModelling,
    "classification": Classification,
    "multiple-choice": MultipleChoice,
    "image-classification": ImageClassification,
    "generation": Generation,
}


class Data:
    """Items and batches by role; see `tasks` for what they hold."""

    def __init__(self, spec: DataSpec, adapter: TaskAdapter[Any], drawing: Drawing) -> None:
        self.spec, self.adapter = spec, adapter
        self.batch_size = USUAL if spec.batch_size == AUTO else spec.batch_size
        self.task: Task = spec.task
        self.labels = adapter.labels  # class names; () where there are none
        self._drawing = drawing
        self._checks: list[Callable[[Batch], None]] = []
        self._items: dict[Role, list[Any]] = {}
        self._batches: dict[Role, list[Batch]] = {}
        self._fingerprints: dict[Role, str] = {}
        self._texts: dict[str, list[str]] = {}

    @property
    def description(self) -> dict[str, Any]:
        """How rows became items: what was read, in which form, what was passed over."""
        found = self.adapter.describe() | {"rows alike in": self._drawing.context}
        found |= {"batch size": self.batch_size}
        return found | {"passed over": dict(self._drawing.skipped.reasons)}

    @property
    def writing(self) -> Writing:
        """What ends a text, where texts are written."""
        return self.adapter.writing

    def items(self, role: Role) -> list[Any]:
        """The task's items before they become tensors, in the order of the batches.

        For search and held_out the longest come first, so that batches hold little padding.
        """
        self.settle(_DRAWING_ORDER[: _DRAWING_ORDER.index(role) + 1])
        found = self._items[role]
        whole = self.spec.windows == "joined" and role in self.spec.splits  # as many as there are
        if not found or (len(found) < getattr(self.spec.items, role) and not whole):
            raise self._too_few(role)
        return found

    def settle(self, roles: Sequence[Role] = _DRAWING_ORDER) -> None:
        """Draw what these roles ask for, or what there is, so that no other may have it."""
        for role in roles:
            if role not in self._items:
                self._items[role] = self._drawing.draw(role)

    def _too_few(self, role: Role) -> DataError:
        skipped, context = self._drawing.skipped, self._drawing.context
        over = f". Rows passed over: {skipped}" if skipped.reasons else ""
        if skipped.reasons and not any(self._items.values()):
            return DataError(f'no row of "{self.spec.dataset}" can be used{over}')
        alike = f'. Rows alike in "{context}" stay in one role ([data] group)' if context else ""
        return DataError(
            f'[data.items] {role} = {getattr(self.spec.items, role)}: "{self.spec.dataset}" has '
            f"only {len(self._items[role])} left for it{_shares(self.spec, role)}. Ask for fewer, "
            f"here or for another role{alike}{over}"
        )

    def batches(self, role: Role) -> list[Batch]:
        """Batches on the CPU, ready for `model(**batch)`; made once."""
        if role not in self._batches:
            made = [self.adapter.batch(items, role) for items in self.by_batch(role)]
            for check in self._checks:
                for batch in made:
                    check(batch)
            self._batches[role] = made
        return self._batches[role]

    def by_batch(self, role: Role) -> list[Sequence[Any]]:
        """The items of each batch."""
        items, size = self.items(role), self.batch_size
        return [items[start : start + size] for start in range(0, len(items), size)]

    def resize(self, size: int) -> None:
        """Put so many items into a batch."""
        self.batch_size = size
        self._batches.clear()
        self._fingerprints.clear()

    def more_texts(self, spec: TextsSpec, seed: int) -> list[str]:
        """Texts from elsewhere that stand in no role; read once."""
        key = f"{seed} {spec.model_dump_json()}"
        if key not in self._texts:
            self.settle()
            known = [folded(item.text) for items in self._items.values() for item in items]
            self._texts[key] = raw_texts(spec, seed, known)
        return self._texts[key]

    def encoded(self, texts: Sequence[str]) -> list[Batch]:
        """Batches of texts without a class, on the CPU; their labels are to be ignored."""
        size, items = self.batch_size, [Labelled(text, None, IGNORED) for text in texts]
        starts = range(0, len(items), size)
        made = [self.adapter.batch(items[i : i + size], "train") for i in starts]
        for check in self._checks:
            for batch in made:
                check(batch)
        return made

    def hold_to(self, check: Callable[[Batch], None]) -> None:
        """Check every batch, those made so far and those to come; it raises what is wrong."""
        self._checks.append(check)
        for batches in self._batches.values():
            for batch in batches:
                check(batch)

    def fingerprint(self, role: Role) -> str:
        """A hash of the exact tensors, and so of the rows, the tokenizer and the batch size."""
        if role not in self._fingerprints:
            self._fingerprints[role] = self._hash(role)
        return self._fingerprints[role]

    def _hash(self, role: Role) -> str:
        digest = hashlib.sha256(f"{self.task} {self.labels}{_harness(self.spec)}".encode())
        digest.update(_written(self.spec).encode())
        for batch in self.batches(role):
            for name, tensor in sorted(batch.items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]


def load_data(
    spec: DataSpec,
    processor: Any,
    seed: int,
    *,
    encoder_decoder: bool = True,
    classes: Sequence[str] = (),
    taken: Taken | None = None,
) -> Data:
    """Open the data set and share it out.

    Args:
        processor: the model's tokenizer or image processor; None for images as they are.
        encoder_decoder: for generation, whether the model writes apart from what it reads (T5).
        classes: those of a model's head, in its order; () where it is yet to be trained.
        taken: what other data sets of this study gave away; what is given away here is added.

    Raises:
        DataError: the data set is not there, not of the task's form, too small, or foreign to the
            tokenizer. Rows to train on are drawn, and missed, only when they are asked for: not
            every study trains.
    """
    if processor is None and spec.task != "image-classification":
        raise DataError(f"{spec.task} needs the model's tokenizer, and the model has none")
    splits = open_splits(spec)
    where = _places(spec, splits)
    tables = [splits[name] for name in dict.fromkeys(where.values())]
    adapter = _ADAPTERS[spec.task](spec, processor, tables)
    adapter.encoder_decoder = encoder_decoder
    if classes and adapter.classes is not None:
        adapter.classes.number_as(classes, spec.dataset)
    _tell(adapter, splits, where)
    data = Data(spec, adapter, Drawing(adapter, splits, where, seed, taken or Taken()))
    for role in _DRAWING_ORDER[:-1]:
        data.items(role)
    if processor is not None and spec.task != "image-classification":
        _must_be_known(data, processor)
    return data


def _written(spec: DataSpec) -> str:
    """What else decides on the texts that are written."""
    given = {"stop": list(spec.stop), "max_new_tokens": spec.max_new_tokens}
    found = {name: value for name, value in given.items() if value}
    return json.dumps(found) if found else ""


def _harness(spec: DataSpec) -> str:
    """What else is measured on: tasks of the harness, and what their files say."""
    names = [] if spec.harness is None else [name.strip() for name in spec.harness.split(",")]
    return "".join(f" {n} {Path(n).read_text() if Path(n).is_file() else ''}" for n in names)


def _tell(
    adapter: TaskAdapter[Any], splits: Mapping[str, datasets.Dataset], where: Mapping[Role, str]
) -> None:
    """Say what a user may not expect: texts that are not read, classes that cannot be learned."""
    name, classes = adapter.spec.dataset, adapter.classes
    unread = adapter.describe()["not read"]
    if unread and adapter.spec.task in ("classification", "language-modelling", "generation"):
        read = ", ".join(f"{word} = {column}" for word, column in adapter.read().items())
        log.warning('"%s": read as %s; not read: %s', name, read, ", ".join(unread))
    if classes is None:
        return
    found = {split: classes.names_in(splits[split]) for split in set(where.values())}
    for role in MEASURED:
        if only := sorted(found[where[role]] - found[where["train"]]):
            log.warning(
                '"%s": %s of split "%s" (%s) stands in no row of split "%s" (train)',
                *(name, ", ".join(only), where[role], role, where["train"]),
            )
    if absent := set(classes.names).difference(*found.values()):
        log.warning('"%s": no row that is read is of class %s', name, ", ".join(sorted(absent)))


def _must_be_known(data: Data, tokenizer: Any) -> None:
    """Raises DataError where the tokenizer does not know most of the text, or has no words."""
    unknown, marks = unknown_id(tokenizer), set(tokenizer.all_special_ids)
    batches = data.batches("calibration")
    rows = [
        one["input_ids"][one.get("attention_mask", one["input_ids"] * 0 + 1) > 0] for one in batches
    ]
    tokens = [number for ids in rows for number in ids.tolist()]
    known = sum(number not in marks and number != unknown for number in tokens)
    others = marks - {unknown} | {tokenizer.bos_token_id, tokenizer.eos_token_id}
    missed = sum(number == unknown and number not in others for number in tokens)
    if known == 0 or missed > known:
        share = missed / (missed + known) if known else 1.0
        raise DataError(
            f'{share:.0%} of the tokens of "{data.spec.dataset}" are unknown to the tokenizer',
            do="give the model the tokenizer it was trained with, or data in its language",
        )


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


def _shares(spec: DataSpec, role: Role) -> str:
    others = [other for other in _DRAWING_ORDER if other != role and other not in spec.splits]
    if role in spec.splits or not others:
        return f' in split "{spec.splits.get(role)}"'
    taken = ", ".join(f"{getattr(spec.items, other)} for {other}" for other in others)
    return f", beside {taken}"
