"""The core abstraction: a trial is a list of stages; a method is a stage that compresses.

A new method is one frozen dataclass deriving from `Method`. Its fields are what a search may
vary. It decides with a pure function on tensors, then edits the modules of the trial's own copy.
"""

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch

from trainables.core.cache import Cache, digest
from trainables.core.errors import FieldError, PlanError
from trainables.core.fork import fork
from trainables.core.lineage import Effect, Lineage, importable_name, own_version
from trainables.core.pictures import Picture
from trainables.core.scores import Scores
from trainables.core.spec import BenchSpec, ModelSpec, Role, Spec, Task, TextsSpec
from trainables.core.types import Batch, PreTrainedModel, Progress, Result, Stats, Writing

# -- what a stage says of what it did --------------------------------------------------------------


@dataclass(frozen=True)
class Removed(Effect):
    """Blocks taken out of the model, by their numbers before, whoever chose them."""

    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Trained(Effect):
    """The model learned; `how` is everything that decides the result, the model aside."""

    how: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """What a stage did.

    Attributes:
        effects: what became of the model, in order; none where it is unchanged. A stage made of
            stages gives all of theirs.
        counts: numbers for people: removed, kept, zeros.
        details: plain data for records.
        pictures: what there is to see.
        label: how a table calls what was done, such as `T95 K1 pass 2`.
    """

    effects: tuple[Effect, ...] = ()
    counts: Mapping[str, int | float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    label: str = ""


# -- what a stage works on -------------------------------------------------------------------------


@runtime_checkable
class Rows(Protocol):
    """The data's roles, as one model reads them."""

    @property
    def task(self) -> Task: ...
    @property
    def writing(self) -> Writing: ...
    @property
    def labels(self) -> tuple[str, ...]: ...  # class names, as the model numbers them
    @property
    def description(self) -> dict[str, Any]: ...
    @property
    def batch_size(self) -> int: ...
    def batches(self, role: Role) -> list[Batch]: ...
    def items(self, role: Role) -> Sequence[Any]: ...
    def by_batch(self, role: Role) -> list[Sequence[Any]]: ...
    def fingerprint(self, role: Role) -> str: ...
    def more_texts(self, spec: TextsSpec, seed: int) -> list[str]: ...
    def encoded(self, texts: Sequence[str]) -> list[Batch]: ...


@dataclass(frozen=True)
class Reading:
    """What a model reads with, and the study's rows as it reads them."""

    processor: Any
    data: Rows
    head: tuple[str, ...] = ()  # the classes that its weights came with; () for a new head


@dataclass(frozen=True)
class Subject:
    """The model that a trial has in hand, what it reads, and how it came to be."""

    model: PreTrainedModel
    lineage: Lineage
    reading: Reading
    history: tuple[tuple["Stage", Summary], ...] = ()
    start: PreTrainedModel | None = None  # what its history began from; None: the bench's base

    def fork(self) -> "Subject":
        """The same with modules of its own, which share all tensors."""
        return dataclasses.replace(self, model=fork(self.model))

    def after(self, stage: "Stage", summary: Summary) -> "Subject":
        """The same model, with a stage noted that was done to it."""
        lineage = self.lineage.then(summary.effects, stage.source())
        history = (*self.history, (stage, summary))
        return dataclasses.replace(self, lineage=lineage, history=history)


class Measured(NamedTuple):
    """Metrics, who measured them before ("study/number"; None if any was measured just now), what
    each item scored, for metrics that are of items, and for times and memory, whether nobody else
    computed on the device."""

    values: dict[str, float]
    same_as: str | None
    scores: Scores = Scores("", {})
    alone: Mapping[str, bool] = {}


@runtime_checkable
class Calibrates(Protocol):
    """A class that measures something of a model, for all its settings at once."""

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats: ...


@runtime_checkable
class Bench(Protocol):
    """All that a stage may see: the subject is the trial's own, the rest is shared by all trials.

    A stage changes `subject.model`, or puts another subject in its place. `model`, `data` and
    `processor` are the subject's: another model reads the same rows with a tokenizer of its own.
    """

    subject: Subject

    @property
    def base(self) -> Subject: ...
    @property
    def model(self) -> PreTrainedModel: ...
    @property
    def spec(self) -> BenchSpec: ...
    @property
    def seed(self) -> int: ...
    @property
    def data(self) -> Rows: ...
    @property
    def processor(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def cache(self) -> Cache: ...
    def open(self, model: ModelSpec) -> Subject: ...
    def stats(self, method: type[Calibrates]) -> Stats: ...
    def batches(self, role: Role) -> Iterator[Batch]: ...
    def measure(self, names: Sequence[str], role: Role = "search") -> Measured: ...


@dataclass(frozen=True)
class Facts:
    """What a space may know of the model before it proposes anything: plain data, so that the
    driver needs no model. The baseline gathers it.

    Attributes:
        blocks: how many residual blocks, numbered 0 to blocks - 1 through all stacks.
        stacks: blocks per stack (T5: encoder, decoder; ResNet: stages).
        fixed: blocks that can never be removed.
        parameters: all of them, ties once.
        survey: what the space asked to be measured.
    """

    blocks: int
    stacks: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    parameters: int = 0
    survey: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """From what a journal holds, which an older version may have written."""
        known = {one.name for one in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


# -- stages ----------------------------------------------------------------------------------------


class Stage(ABC):
    """Anything a trial does to the model; a frozen dataclass whose fields are its settings.

    Attributes:
        version: goes up when the same fields come to mean something else.
        leaves: what the weights are afterwards, where most stages cannot go on: `codes`, say.
        takes: the kinds of such weights that this one can go on with.
        replaces: whether another model takes the place of the one before, and all is lost that was
            done to that.
        runtime: what it takes to profit from the stage, for people.
    """

    version: ClassVar[int] = 1
    leaves: ClassVar[str] = ""
    takes: ClassVar[frozenset[str]] = frozenset()

    @property
    def replaces(self) -> bool:
        """Whether another model takes the place of what earlier stages made."""
        return False

    @property
    def runtime(self) -> str:
        """What a model needs to be run with so that this pays, in words; empty: nothing special."""
        return ""

    @property
    def idle(self) -> bool:
        """Whether these settings ask for nothing, whatever the model: no trial is spent on that."""
        return False

    @abstractmethod
    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Change `bench.model`, yielding progress where a scheduler may stop the trial."""

    def settings(self) -> dict[str, Any]:
        """The fields as plain data, for records."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def source(self) -> str:
        """The version of the code, where it is a user's own: that of stages inside included."""
        parts = [own_version(type(self))]
        parts += [inner.source() for _, inner in self._fields() if isinstance(inner, Stage)]
        return digest(*parts) if any(parts) else ""

    def to_dict(self) -> dict[str, Any]:
        """The stage as plain data: importable name, version, fields."""
        fields = {name: _plain(value) for name, value in self._fields()}
        return {"stage": _name_of(type(self)), "version": self.version, "fields": fields}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Stage":
        """The inverse of `to_dict`, also after it was written as JSON or TOML.

        Raises:
            PlanError: a stage that cannot be imported, another version of it, or unknown fields.
            FieldError: a field out of its range.
        """
        kind = _stage_class(str(data["stage"]))
        if data["version"] != kind.version:
            raise PlanError(
                f"{data['stage']}: version of its fields",
                got=data["version"],
                allowed=str(kind.version),
                do="use the version of the code that wrote it",
            )
        known = _field_names(kind)
        if unknown := sorted(set(data["fields"]) - set(known)):
            raise PlanError(
                f"{data['stage']}: unknown fields", got=unknown, allowed=", ".join(known)
            )
        return kind(**{name: _thawed(value) for name, value in data["fields"].items()})

    def _fields(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in _field_names(type(self)))

    def require(self, name: str, ok: bool, allowed: str) -> None:
        """Raise FieldError unless `ok`."""
        if not ok:
            raise FieldError(self, name, allowed)


@cache
def _field_names(kind: type[Stage]) -> tuple[str, ...]:
    return tuple(one.name for one in dataclasses.fields(kind))  # type: ignore[arg-type]


_name_of = cache(importable_name)  # a sampler asks thousands of times
_PLAIN = {int, float, str, bool, tuple, type(None)}


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Stage):
        return value.to_dict()
    return value.model_dump(mode="json") if isinstance(value, Spec) else value


def _stage_class(where: str) -> type[Stage]:
    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        do = "run where it can be imported"
        raise PlanError(f"stage {where} could not be imported: {error}", do=do) from error
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise PlanError("stage", got=where, allowed='a Stage, as "package.module:Class"')
    return found


def _thawed(value: Any) -> Any:
    """A field from plain data: stages inside it, and tuples where JSON has lists."""
    if isinstance(value, Mapping):
        if {"stage", "version", "fields"} == set(value):
            return Stage.from_dict(value)
        return {name: _thawed(item) for name, item in value.items()}
    return tuple(map(_thawed, value)) if isinstance(value, list | tuple) else value


class Method(Stage):
    """A stage that compresses by a rule: from the weights alone, or from what calibration measures.

    A method that measures defines `calibrate`, one that needs only weights leaves it alone.
    """

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """Measure what `apply` needs. A classmethod, so that all settings share it."""
        return {}

    @classmethod
    def measures(cls) -> bool:
        """Whether there is anything to calibrate."""
        return any("calibrate" in vars(one) for one in cls.__mro__ if one is not Method)

    def calibrator(self) -> type[Calibrates] | None:
        """Whose calibration these settings need: the method's own, unless a setting asks for
        another one; None where nothing is measured."""
        return type(self) if self.measures() else None

    @abstractmethod
    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        """Edit the trial's own copy, deterministically, and say what was done."""

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        yield from ()
        kind = self.calibrator()
        return self.apply(bench.model, {} if kind is None else bench.stats(kind))


def check_order(stages: Sequence[Stage]) -> None:
    """Raise PlanError where a stage would undo, or cannot work on, what one before it left."""
    left, by, before = "", "", ""
    for stage in stages:
        name = type(stage).__name__
        if before and stage.replaces:
            do = f"put {name} first"
            raise PlanError(f"{name} puts another model in place of what {before} made", do=do)
        before = name
        if left and left not in stage.takes:
            do = f"put {name} before {by}, or leave it out"
            raise PlanError(f"{name} after {by}, which leaves weights that are {left}", do=do)
        if stage.leaves:
            left, by = stage.leaves, name


def drain(running: Generator[Progress, None, Result]) -> Result:
    """Run to the end, with nobody to stop it; what the generator returns."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            result: Result = end.value
            return result


def noting(
    progress: list[Progress], running: Generator[Progress, None, Result]
) -> Generator[Progress, None, Result]:
    """Pass on what is yielded, and keep it."""
    while True:
        try:
            step = next(running)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        progress.append(step)
        yield step
