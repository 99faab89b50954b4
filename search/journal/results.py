"""A study's trials as people and scripts read them: results, the front, the counts.

Everything here is read from the journal; nothing is written. Number 0, the baseline, competes for
the front like any trial, but is never counted among them: when a study is done,
finished + failed == planned; repeats, whose model was known, stand beside them.
"""

import contextlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.bench.metrics.catalogue import is_timed
from trainables.core.pictures import Picture, read_picture

_Losses: TypeAlias = NDArray[np.float64]
State = Literal["complete", "fail", "pruned", "running", "waiting"]
ENDED = ("complete", "fail", "pruned")


@dataclass(frozen=True)
class Step:
    """One stage of a trial, as its record has it."""

    stage: str  # the class
    label: str  # what tables call it
    settings: Mapping[str, Any]
    changed: bool  # whether it did anything to the model
    counts: Mapping[str, int | float]
    pictures: tuple[Picture, ...]
    models: tuple[str, ...] = ()  # those that had a part in it, the study's own included
    runtime: str = ""  # what it takes to profit from it

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> "Step":
        """From a record, which an older version may have written."""
        return cls(
            stage=data["stage"],
            label=data.get("label") or data["stage"],
            settings=data["settings"],
            changed=bool(data["effects"] if "effects" in data else data.get("effect")),
            counts={k: v for k, v in data["counts"].items() if isinstance(v, int | float)},
            pictures=tuple(_known_pictures(data.get("pictures", ()))),
            models=tuple(data.get("details", {}).get("models", ())),
            runtime=str(data.get("runtime", "")),
        )


def _known_pictures(found: Iterable[Mapping[str, Any]]) -> Iterator[Picture]:
    """Without those of kinds that only a newer version knows."""
    for one in found:
        with contextlib.suppress(KeyError, TypeError):
            yield read_picture(one)


@dataclass(frozen=True)
class Result:
    """One trial.

    Attributes:
        state: waiting is a trial that was handed out and whose driver died: it is still owed.
        violations: constraint -> by what share it is missed; at most 0 where it holds.
        on_front: feasible, and no other trial is better in all objectives.
        record: all the worker reported.
        phase: which phase of a search in phases proposed it, and its place in it, from 0.
        part: of a step on the way to a study's trials, which is none: what kind of step it is.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    violations: Mapping[str, float]
    record: Mapping[str, Any]
    started: datetime | None = None
    stopped: datetime | None = None
    on_front: bool = False
    phase: tuple[int, int] | None = None
    part: str = ""

    @property
    def is_baseline(self) -> bool:
        return self.number == 0 and not self.part

    @property
    def name(self) -> str:
        if self.part:
            return f"{self.part} {self.number}"
        return "baseline" if self.is_baseline else f"trial {self.number}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def feasible(self) -> bool:
        return self.state == "complete" and all(miss <= 0 for miss in self.violations.values())

    @property
    def miss(self) -> float:
        """By how much the constraints are missed, all together."""
        return sum(max(0.0, miss) for miss in self.violations.values())

    @property
    def lineage(self) -> str | None:
        return self.record.get("lineage")

    @property
    def same_as(self) -> str | None:
        """Who measured this very model before, as "study/number"."""
        return self.record.get("same_as")

    @property
    def stages(self) -> "tuple[Step, ...]":
        """What was done to the model, in order."""
        return tuple(map(Step.read, self.record.get("stages") or ()))

    @property
    def shape(self) -> Mapping[str, Any]:
        """How large the model is: parameters, blocks, stacks; empty where nothing tells."""
        found: Mapping[str, Any] = self.record.get("shape") or {}
        return found

    @property
    def device(self) -> str | None:
        """The kind of device it was measured on."""
        found = (self.record.get("hardware") or {}).get("device")
        return None if found is None else str(found)

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        return self.record.get("reason")

    @property
    def seconds(self) -> float | None:
        found = self.record.get("seconds", {}).get("total")
        return None if found is None else float(found)


# -- the front ---------------------------------------------------------------------------------


def losses(result: Result, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The objectives' values, signed so that less is better."""
    return tuple(
        result.metrics[name] if direction == "min" else -result.metrics[name]
        for name, direction in objectives.items()
    )


def front(results: Iterable[Result], objectives: Mapping[str, str]) -> list[Result]:
    """The feasible results that no other one dominates, by the first objective, best first; where
    times count, of those that were taken on the untouched model's kind of device."""
    found = timed_alike(results, objectives)
    return undominated([result for result in found if result.feasible], objectives)


def timed_alike(results: Iterable[Result], objectives: Mapping[str, str]) -> list[Result]:
    """The results whose times can be compared: all, where no objective is a time."""
    found = list(results)
    if not any(map(is_timed, objectives)):
        return found
    kinds = {one.number: one.device for one in found if one.device is not None}
    return [one for one in found if 0 not in kinds or kinds.get(one.number) in (None, kinds[0])]


def undominated(results: Iterable[Result], objectives: Mapping[str, str]) -> list[Result]:
    """Like `front`, of any results; equal ones stand together."""
    ordered, values = _ordered(results, objectives)
    if len(objectives) <= 2:
        return [ordered[index] for index in _flat_front(values)]
    table, found = np.array(values).reshape(-1, len(objectives)), list[int]()
    for index, own in enumerate(table):  # what dominates a result comes before it
        if not _over(table[found], own).any():
            found.append(index)
    return [ordered[index] for index in found]


def _flat_front(values: Sequence[tuple[float, ...]]) -> Iterator[int]:
    """Of one or two objectives, in order: the best so far in the last one decides."""
    best: tuple[float, ...] | None = None
    for index, own in enumerate(values):
        if best is None or not _beats(best, own):
            best = own
            yield index


def dominates(one: Result, other: Result, objectives: Mapping[str, str]) -> bool:
    """Whether one result is at least as good in all objectives, and better in some."""
    mine, theirs = losses(one, objectives), losses(other, objectives)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def distinct(results: Iterable[Result], known: Iterable[Result | None] = ()) -> list[Result]:
    """One result per model: those that repeat an earlier one, or one of `known`, left out."""
    seen = {one.lineage for one in known if one is not None}
    found: list[Result] = []
    for result in results:
        if result.lineage is None or result.lineage not in seen:
            found.append(result)
            seen.add(result.lineage)
    return found


def repeats(results: Iterable[Result]) -> set[int]:
    """The trials whose model an earlier one, or the baseline, was: their numbers.

    They take no place in `budget.trials`.
    """
    complete = [one for one in results if one.state == "complete"]
    return {one.number for one in complete} - {one.number for one in distinct(complete)}


def ranked(results: Iterable[Result], objectives: Mapping[str, str]) -> list[list[Result]]:
    """Fronts one after the other: the first one, then that of what is left, and so on.

    Each by the first objective, best first.
    """
    ordered, values = _ordered(results, objectives)
    layers: list[list[Result]] = []
    for result, rank in zip(ordered, _ranks(values, objectives), strict=True):
        if rank == len(layers):
            layers.append([])
        layers[rank].append(result)
    return layers


def _ranks(values: Sequence[tuple[float, ...]], objectives: Mapping[str, str]) -> list[int]:
    """How many fronts come before each of these; what dominates one comes before it."""
    if len(objectives) <= 2:
        return _flat_ranks(values)
    table = np.array(values).reshape(-1, len(objectives))
    ranks = np.zeros(len(table), dtype=int)
    for index, own in enumerate(table):
        over = ranks[:index][_over(table[:index], own)]
        ranks[index] = over.max(initial=-1) + 1
    return [int(rank) for rank in ranks]


def _flat_ranks(values: Sequence[tuple[float, ...]]) -> list[int]:
    """Of one or two objectives, in order: a front's best in the last one decides for all of it."""
    lowest: list[tuple[float, ...]] = []  # by front
    ranks = []
    for own in values:
        rank = bisect_left(lowest, True, key=lambda best: not _beats(best, own))
        if rank == len(lowest):
            lowest.append(own)
        elif own[-1] < lowest[rank][-1]:
            lowest[rank] = own
        ranks.append(rank)
    return ranks


def _beats(best: tuple[float, ...], own: tuple[float, ...]) -> bool:
    """Whether one that comes before is better in some objective, and worse in none."""
    return best[-1] < own[-1] or (best[-1] == own[-1] and best != own)


def _ordered(
    results: Iterable[Result], objectives: Mapping[str, str]
) -> tuple[list[Result], list[tuple[float, ...]]]:
    """Results by the first objective, best first, and their losses."""
    pairs = [(losses(one, objectives), one.number, one) for one in results]
    pairs.sort(key=lambda pair: pair[:2])
    return [one for _, _, one in pairs], [values for values, _, _ in pairs]


def _over(others: _Losses, own: _Losses) -> NDArray[np.bool_]:
    """Which of the others dominate a result."""
    return np.logical_and((others <= own).all(axis=1), (others < own).any(axis=1))
