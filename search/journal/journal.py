"""The journal: what happened to every trial, in Optuna's storage, which is the truth.

Number 0 is the baseline. The sampler works on a copy in memory, so that the storage gets a trial
whole, in one write when it is handed out and one when it is told. A trial without an end is still
owed: it is handed out again, under its number.
"""

import contextlib
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from search.journal.fence import Driver
from search.journal.rows import Rows
from search.journal.sampler_copy import Proposal, SamplerCopy
from search.journal.tables import collector_paused
from search.samplers.around import around
from search.samplers.build import Source
from search.samplers.points import Ask, key_of
from search.study.constraints import Constraint
from trainables.core.errors import UserError
from trainables.core.spec import Assignment

Params = dict[str, Any]
Record = Mapping[str, Any]
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
ATTEMPTS = 10  # how often a trial is handed out before its interruptions count as its failure


@dataclass
class Journal:
    """One study's trials; the driver is its only writer."""

    storage: RDBStorage
    name: str
    objectives: Mapping[str, str]  # metric -> min or max
    limits: Mapping[str, Constraint] = field(default_factory=dict)  # key -> constraint
    driver: Driver = field(default_factory=Driver)

    def __post_init__(self) -> None:
        directions = [DIRECTIONS[direction] for direction in self.objectives.values()]
        self.rows = Rows(self.storage, self.name, directions, self.driver)
        if "token" not in self.rows.notes:
            self.note("token", secrets.token_hex(4))
        self.token: str = self.rows.notes["token"]
        self.copy: SamplerCopy | None = None
        self.points: list[Params] = []
        self.owed: list[FrozenTrial] = []
        self.exhausted = False  # nothing is left to propose that is not known
        self._state: dict[str, Any] = {}  # what the sampler keeps beside the trials, as noted
        self._known: set[str] = set()  # the stages of all trials, once a proposal needs them
        self.repeats = 0  # trials whose model an earlier one, or the baseline, measured
        self._models: set[str] = set()
        for row in self.trials():
            self._count(row)

    def note(self, key: str, value: Any) -> None:
        """Remember something of the study itself."""
        self.rows.note(key, value)

    def noted(self, key: str) -> Any:
        """What `note` remembered, or None."""
        return self.rows.notes.get(key)

    def trials(self) -> Sequence[FrozenTrial]:
        """All trials, the baseline first; as they are now, and as they will be."""
        return self.rows.all

    def close(self) -> None:
        """Let another driver have the study."""
        self.rows.close()

    def uid(self, number: int) -> str:
        """A trial's name in files: unique to this study, not only to its folder."""
        return f"{self.token}-{number:05d}"

    def baseline(self) -> dict[str, float] | None:
        """The untouched model's metrics, once measured."""
        first = self.trials()[:1]
        done = first and first[0].state == TrialState.COMPLETE
        return dict(first[0].user_attrs["record"]["metrics"]) if done else None

    # -- at the start of a launch ------------------------------------------------------------

    def reclaim(self, results: Path) -> None:
        """Settle what an interrupted driver left: finished ones are told, the others owed again."""
        for row in list(self.trials()):
            if row.state == TrialState.RUNNING:
                self._reclaim(row, read_record(results / f"{self.uid(row.number)}.json"))

    def retry(self, results: Path) -> int:
        """Let those failed trials run again that nothing says to have failed by their own fault;
        returns how many. Comes before `reclaim`."""
        again = [row.number for row in self.trials() if _is_blameless(row)]
        for number in again:
            (results / f"{self.uid(number)}.json").unlink(missing_ok=True)
            self.rows.reopen(number)
        return len(again)

    def _reclaim(self, row: FrozenTrial, record: Record | None) -> None:
        if record is not None and self._tellable(row.number, record):
            self._settle(row.number, record)
        elif row.user_attrs.get("attempts", 1) >= ATTEMPTS and row.number > 0:
            why = f"interrupted {ATTEMPTS} times, as the driver or node died"
            self._fail(row.number, why, {"blame": "worker"})
        else:
            self.owed.append(row)

    def _tellable(self, number: int, record: Record) -> bool:
        """Whether a durable result ends its trial. A baseline that failed is measured again."""
        if record.get("state") not in ("complete", "pruned", "fail") or self._changes(record):
            return False
        return number > 0 or self.unusable(record) is None

    def begin(self, sampler: BaseSampler | Source, starts: Sequence[Params]) -> None:
        """Load the sampler's copy, and put the starting points not yet tried first."""
        self.copy = SamplerCopy(sampler, self.rows.directions)
        self._state = self.noted("sampler") or {}
        self.copy.recall(self._state)
        if (base := self.baseline()) is not None and base.keys() >= self.objectives.keys():
            values = [float(base[name]) for name in self.objectives]
            self.copy.study.set_user_attr("baseline", values)
        for row in self.trials()[1:]:
            self.copy.add(row)
        self.points, skipped = [], self.noted("skipped") or []
        for point in starts:
            if point in self.points or point in skipped:
                continue
            if not any(_is_try(row, point) for row in self.trials()):
                self.points.append(point)

    # -- handing out -------------------------------------------------------------------------

    def hand_out(self, ask: Ask | None) -> Assignment | None:
        """The next trial: one owed, else the baseline, else what the sampler proposes.

        Args:
            ask: runs the space on a trial; None while there is no baseline.

        Returns:
            None where the space refused the proposal, which is told as a failed trial, or where
            the space is `exhausted`.

        Raises:
            UserError: there is no baseline, and it cannot be measured any more.
        """
        if ask is None and self.trials() and not (self.owed and self.owed[0].number == 0):
            raise _no_baseline(self.name)
        if self.owed:
            row = self.owed.pop(0)
            attempts = row.user_attrs.get("attempts", 1) + 1
            self.rows.mark(row.number, "attempts", attempts)
            return Assignment(row.number, self.uid(row.number), row.params)
        if ask is None:
            return self._given(self.rows.open({}, {}, {}, {}))
        with collector_paused():  # it would go through all trials again and again
            return self._propose(ask)

    def _given(self, number: int) -> Assignment:
        return Assignment(number, self.uid(number), dict(self.trials()[number].params))

    def _propose(self, ask: Ask) -> Assignment | None:
        """A point that means stages which no trial had, or has."""
        assert self.copy is not None, "begin() comes before the first proposal"
        self._learn(ask)
        while self.points:
            point = self.points[0]
            found = self.copy.propose(ask, self._known, point)
            if found is not None:
                self.points.pop(0)
                return self._open(found, {"start": point})
            self.note("skipped", [*(self.noted("skipped") or []), point])
            self.points.pop(0)
        found = self.copy.propose(ask, self._known) or self._around(ask)
        if found is None:
            self.exhausted = True
            return None
        return self._open(found, {})

    def _around(self, ask: Ask) -> Proposal | None:
        """A point from around the front, where the sampler only repeats itself."""
        assert self.copy is not None
        rng = Random(f"{self.copy.source.seed}/{len(self.trials())}/around")
        rows, directions = self.trials()[1:], self.rows.directions
        point = around(ask, rows, directions, self._known, rng)
        return None if point is None else self.copy.propose(ask, self._known, point)

    def _open(self, found: Proposal, attrs: Mapping[str, Any]) -> Assignment | None:
        assert self.copy is not None
        if (state := self.copy.state) != self._state:
            self.note("sampler", state)
            self._state = state
        kept = {**attrs, "means": found.key}
        number = self.rows.open(found.params, found.distributions, kept, found.system_attrs)
        self.copy.add(self.trials()[number])
        if found.refused is not None:
            self.fail(number, found.refused)
            return None
        if found.key is not None:
            self._known.add(found.key)
        return self._given(number)

    def _learn(self, ask: Ask) -> None:
        """What the trials mean; those of an older journal are asked again."""
        if self._known:
            return
        self._known = {str(key_of([]))}  # the untouched model
        for row in self.trials()[1:]:
            key = row.user_attrs.get("means")
            if "means" not in row.user_attrs:
                with contextlib.suppress(Exception):  # which the space refused, or now would
                    key = key_of(ask(FixedTrial(row.params)))
            if key is not None:
                self._known.add(key)

    def owe(self, number: int) -> None:
        """Hand a trial out again, under its number: its worker died."""
        self.owed.append(self.trials()[number])

    # -- telling -----------------------------------------------------------------------------

    def settle(self, number: int, record: Record) -> None:
        """Tell a trial's end, as its record has it.

        Raises:
            UserError: the model or the data are not those of the baseline, or the untouched model
                cannot be measured. The trial is still owed.
        """
        if changes := self._changes(record):
            raise UserError(
                f"study {self.name}: {' and '.join(changes)} changed since its baseline",
                do="launch it under a new name, or put back what was there",
            )
        if number == 0 and (reason := self.unusable(record)):
            raise UserError(f"study {self.name}: the untouched model was not measured: {reason}")
        self._settle(number, record)
        self._mirror(number)

    def fail(self, number: int, reason: str) -> None:
        """Tell that a trial failed without a record."""
        self._fail(number, reason)
        self._mirror(number)

    def stop(self, number: int, progress: Record) -> None:
        """Tell that a scheduler stopped a trial early."""
        record = {"state": "pruned", "metrics": {}, "progress": progress}
        self.rows.end(number, TrialState.PRUNED, record)
        self._mirror(number)

    def _lost(self, number: int, record: Record) -> None:
        """Tell that a trial was out of the race, and what it would have come to by what it showed:
        so the sampler sees it as it would have seen the whole."""
        seen, baseline = record["seen"], self.baseline() or {}
        violations = {
            key: limit.violation(seen[limit.metric], baseline.get(limit.metric))
            for key, limit in self.limits.items()
            if limit.metric in seen
        }
        estimate = [float(seen[name]) for name in self.objectives if name in seen]
        kept = {**record, "estimate": estimate if len(estimate) == len(self.objectives) else None}
        self.rows.end(number, TrialState.PRUNED, kept, None, violations)

    def _settle(self, number: int, record: Record) -> None:
        if record["state"] == "pruned":
            self._lost(number, record)
            return
        if reason := self.unusable(record):
            self._fail(number, reason, record)
            return
        baseline = record["metrics"] if number == 0 else self.baseline() or {}
        violations = {
            key: limit.violation(record["metrics"][limit.metric], baseline.get(limit.metric))
            for key, limit in self.limits.items()
        }
        if record.get("facts"):  # before the baseline counts as measured
            self.note("facts", record["facts"])
        values = [float(record["metrics"][name]) for name in self.objectives]
        kept = {**record, "facts": None}
        kept.pop("scores", None)  # which have a file of their own
        self.rows.end(number, TrialState.COMPLETE, kept, values, violations)
        self._count(self.trials()[number])

    def _count(self, row: FrozenTrial) -> None:
        """Count a trial whose model turned out to be known."""
        if row.state == TrialState.COMPLETE and (model := row.user_attrs["record"].get("lineage")):
            self.repeats += model in self._models
            self._models.add(model)

    def unusable(self, record: Record) -> str | None:
        """Why a record is no result: what went wrong, or which metric is missing or no number."""
        if record["state"] != "complete":
            return str(record.get("reason"))
        wanted = [*self.objectives, *(limit.metric for limit in self.limits.values())]
        for name in wanted:
            value = record["metrics"].get(name)
            if value is None or not math.isfinite(value):
                return f"{name} was {'not measured' if value is None else value}"
        return None

    def _changes(self, record: Record) -> list[str]:
        """What the trial was made from and is not what the study began with."""
        first = self.trials()[:1]
        done = first and first[0].state == TrialState.COMPLETE
        known = _origin(first[0].user_attrs["record"]) if done else {}
        found = _origin(record)
        return [name for name, mark in found.items() if known.get(name, mark) != mark]

    def _fail(self, number: int, reason: str, record: Record | None = None) -> None:
        failed = {**(record or {}), "state": "fail", "reason": reason, "metrics": {}, "facts": None}
        self.rows.end(number, TrialState.FAIL, failed)

    def _mirror(self, number: int) -> None:
        """Let the sampler see the end of a trial."""
        if self.copy is not None and number > 0:
            self.copy.tell(self.trials()[number])


def _is_blameless(row: FrozenTrial) -> bool:
    """Whether a trial failed of its place, its workers, its time or some code's mistake."""
    blame = row.user_attrs.get("record", {}).get("blame", "candidate")
    return row.state == TrialState.FAIL and blame != "candidate"


def _is_try(row: FrozenTrial, point: Params) -> bool:
    """Whether a trial tried a starting point: its content counts, not its place in a list."""
    start = row.user_attrs.get("start")
    if isinstance(start, int):  # an older journal's: the place in a list that may have changed
        return point.items() <= row.params.items()
    return point in (start, row.params)


def _origin(record: Record) -> dict[str, str]:
    """What a trial was made from: name -> fingerprint."""
    data = {f"the {role} data": mark for role, mark in (record.get("data") or {}).items()}
    base = record.get("base")
    return {**({"the model": base} if base else {}), **data}


def read_record(path: Path) -> dict[str, Any] | None:
    """A worker's durable result, or None."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found


def _no_baseline(name: str) -> UserError:
    return UserError(
        f"study {name} has trials, and no measurement of the untouched model",
        do="launch it under another name, or with another --storage",
    )
