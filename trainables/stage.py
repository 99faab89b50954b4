"""The core abstraction: a trial is a list of stages; a method is a stage that compresses.

A new method is one frozen dataclass deriving from `Method`. Its fields are what a search may
vary. It decides with a pure function on tensors, then edits the modules of the trial's own copy.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from trainables.core.errors import BenchError
from trainables.core.types import Bench, PreTrainedModel

Batch: TypeAlias = dict[str, Tensor]  # what model(**batch) takes
Stats: TypeAlias = dict[str, Tensor]  # what calibration measured; stored as safetensors
Progress: TypeAlias = dict[str, float]  # what a long stage yields between its steps
Result = TypeVar("Result")


class FieldError(BenchError, ValueError):
    """A stage's field outside its range: says the field, the value and what is allowed."""

    def __init__(self, stage: object, name: str, allowed: str) -> None:
        got = getattr(stage, name)
        super().__init__(f"{type(stage).__name__}.{name} = {got!r}: allowed is {allowed}")


class PlanError(BenchError, ValueError):
    """A stage that cannot be done to this model, such as removing a block it does not have."""


@dataclass(frozen=True)
class Summary:
    """What a stage did.

    Equal effects on equal models give equal models: the effect is what identifies the result
    (see `lineage`). An effect of None says that the model is unchanged.
    """

    effect: Mapping[str, Any] | None
    counts: Mapping[str, Any] = field(default_factory=dict)  # for people: removed, kept, zeros


class Stage(ABC):
    """Anything a trial does to the model; a frozen dataclass whose fields are its settings."""

    @abstractmethod
    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Change `bench.model`, yielding progress where a scheduler may stop the trial."""

    def settings(self) -> dict[str, Any]:
        """The fields as plain data, for records."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def require(self, name: str, ok: bool, allowed: str) -> None:
        """Raise FieldError unless `ok`."""
        if not ok:
            raise FieldError(self, name, allowed)


class Method(Stage):
    """A stage that compresses by a rule, from what calibration measured."""

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """Measure what `apply` needs. A classmethod, so that all settings share it."""
        return {}

    @abstractmethod
    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        """Edit the trial's own copy, deterministically, and say what was done."""

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        yield from ()
        return self.apply(bench.model, bench.stats(type(self)))


def drain(running: Generator[Progress, None, Result]) -> Result:
    """Run to the end, with nobody to stop it; what the generator returns."""
    while True:
        try:
            next(running)
        except StopIteration as end:
            result: Result = end.value
            return result
