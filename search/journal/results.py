"""A study's trials as people and scripts read them: results, the front, the counts.

Everything here is read from the journal; nothing is written. Number 0, the baseline, competes for
the front like any trial, but is never counted among them: when a study is done,
finished + failed == planned.
"""

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial

from search.journal.lock import driver_of
from search.errors import UserError
from search.journal.store import Store, open_storage
from search.study.schema import Study

State = Literal["complete", "fail", "pruned", "running", "waiting"]
StudyState = Literal["new", "running", "interrupted", "finished"]
ENDED = ("complete", "fail", "pruned")


@dataclass(frozen=True)
class Result:
    """One trial.

    Attributes:
        state: waiting is a trial that was handed out and whose driver died: it is still owed.
        violations: constraint -> by what share it is missed; at most 0 where it holds.
        on_front: feasible, and no other trial is better in all objectives.
        record: all the worker reported.
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

    @property
    def is_baseline(self) -> bool:
        return self.number == 0

    @property
    def name(self) -> str:
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
    def reason(self) -> str | None:
        """Why it failed."""
        return self.record.get("reason")

    @property
    def seconds(self) -> float | None:
        found = self.record.get("seconds", {}).get("total")
        return None if found is None else float(found)


@dataclass(frozen=True)
class View:
    """A study as its journal had it a moment ago."""

    study: Study
    results: tuple[Result, ...]
    driver: str | None = None  # who runs it now
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def baseline(self) -> Result | None:
        """The untouched model, once measured."""
        found = self.results[:1]
        return found[0] if found and found[0].state == "complete" else None

    @property
    def trials(self) -> tuple[Result, ...]:
        """All but the baseline."""
        return self.results[1:]

    @property
    def counts(self) -> dict[str, int | None]:
        """Trials by what became of them, without the baseline; planned is None without a limit."""
        states = [result.state for result in self.trials]
        return {
            "finished": states.count("complete") + states.count("pruned"),
            "failed": states.count("fail"),
            "running": states.count("running"),
            "waiting": states.count("waiting"),
            "planned": self.study.budget.trials,
        }

    @property
    def state(self) -> StudyState:
        if self.driver is not None:
            return "running"
        if not self.results:
            return "new"
        owed = any(not result.ended for result in self.results)
        return "finished" if self._spent and not owed else "interrupted"

    @property
    def _spent(self) -> bool:
        budget = self.study.budget
        trials = budget.trials is not None and len(self.trials) >= budget.trials
        seconds = float(self.notes.get("seconds") or 0)
        return trials or (budget.hours is not None and seconds >= budget.hours * 3600)

    def trial(self, number: int) -> Result:
        """One trial by number."""
        if not 0 <= number < len(self.results):
            allowed = f"0 (the baseline) to {len(self.results) - 1}"
            raise UserError("no such trial", got=number, allowed=allowed)
        return self.results[number]


class Reader:
    """Reads a study again and again; what has ended is read once."""

    def __init__(self, store: Store) -> None:
        self.store, self.storage = store, open_storage(store)
        try:
            self.rows = optuna.load_study(study_name=store.study, storage=self.storage)
        except KeyError:
            self.close()
            raise _empty(store) from None

    def view(self) -> View:
        """The study as it is now."""
        driver, notes = driver_of(self.store), self.rows.user_attrs
        study, rows = _study(self.store, notes), self.rows.get_trials(deepcopy=False)
        return View(study, tuple(results_of(study, rows, driving=bool(driver))), driver, notes)

    def close(self) -> None:
        """Let go of the database."""
        self.storage.engine.dispose()


def read(store: Store) -> View:
    """A study as it is now."""
    reader = Reader(store)
    try:
        return reader.view()
    finally:
        reader.close()


def _empty(store: Store) -> UserError:
    return UserError(f"study {store.study} has no trials yet", do="launch it first")


def _study(store: Store, notes: Mapping[str, Any]) -> Study:
    """The study as launched last; not checked against this machine, which may be another one."""
    text = notes.get("toml") or (store.toml.read_text() if store.toml.is_file() else None)
    if text is None:
        raise _empty(store)
    return Study.model_validate(tomllib.loads(text))


def results_of(study: Study, rows: Iterable[FrozenTrial], *, driving: bool = True) -> list[Result]:
    """The journal's rows as results, the baseline first.

    Args:
        driving: whether a driver works on the study; else a trial without an end is waiting.
    """
    found = [_result(row, driving) for row in rows]
    chosen = {result.number for result in front(found, study.objectives)}
    return [dataclasses.replace(one, on_front=one.number in chosen) for one in found]


def _result(row: FrozenTrial, driving: bool) -> Result:
    record = row.user_attrs.get("record", {})
    states: dict[str, State] = {"COMPLETE": "complete", "FAIL": "fail", "PRUNED": "pruned"}
    return Result(
        number=row.number,
        state=states.get(row.state.name, "running" if driving else "waiting"),
        params=row.params,
        metrics=record.get("metrics", {}),
        violations=row.constraints,
        record=record,
        started=row.datetime_start,
        stopped=row.datetime_complete,
    )


# -- the front ---------------------------------------------------------------------------------


def losses(result: Result, objectives: Mapping[str, str]) -> tuple[float, ...]:
    """The objectives' values, signed so that less is better."""
    return tuple(
        result.metrics[name] if direction == "min" else -result.metrics[name]
        for name, direction in objectives.items()
    )


def front(results: Iterable[Result], objectives: Mapping[str, str]) -> list[Result]:
    """The feasible results that no other one dominates, by the first objective, best first."""
    return undominated([result for result in results if result.feasible], objectives)


def undominated(results: Sequence[Result], objectives: Mapping[str, str]) -> list[Result]:
    """Like `front`, of any results; equal ones stand together."""
    found: list[tuple[tuple[float, ...], Result]] = []
    ordered = sorted(((losses(one, objectives), one.number, one) for one in results), key=_head)
    for values, _, result in ordered:  # what dominates a result comes before it
        if not any(_dominates(other, values) for other, _ in found):
            found.append((values, result))
    return [result for _, result in found]


def _head(entry: tuple[tuple[float, ...], int, Result]) -> tuple[tuple[float, ...], int]:
    return entry[:2]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def distinct(results: Iterable[Result], known: Iterable[Result | None] = ()) -> list[Result]:
    """One result per model: those that repeat an earlier one, or one of `known`, left out."""
    seen = {one.lineage for one in known if one is not None}
    found: list[Result] = []
    for result in results:
        if result.lineage is None or result.lineage not in seen:
            found.append(result)
            seen.add(result.lineage)
    return found


def ranked(results: Iterable[Result], objectives: Mapping[str, str]) -> Iterator[list[Result]]:
    """Fronts one after the other: the first one, then that of what is left, and so on."""
    left = list(results)
    while left:
        layer = undominated(left, objectives)
        yield layer
        taken = {result.number for result in layer}
        left = [result for result in left if result.number not in taken]
