"""The journal: what happened to every trial, in Optuna's storage, which is the truth.

Number 0 is the baseline. The sampler works on a copy in memory (without the baseline, which has
no parameters), so that the storage gets a trial whole, in one write when it is handed out and one
when it is told. A trial without an end is still owed: it is handed out again, under its number.
"""

import contextlib
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

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

    storage: BaseStorage
    name: str
    objectives: Mapping[str, str]  # metric -> min or max
    limits: Mapping[str, Constraint] = field(default_factory=dict)  # key -> constraint

    def __post_init__(self) -> None:
        directions = [DIRECTIONS[direction] for direction in self.objectives.values()]
        self.rows = optuna.create_study(
            storage=self.storage,
            study_name=self.name,
            directions=directions,
            load_if_exists=True,
            sampler=RandomSampler(),
        )
        if "token" not in self.rows.user_attrs:
            self.note("token", secrets.token_hex(4))
        self.token: str = self.rows.user_attrs["token"]
        self.copy: optuna.Study | None = None
        self.asked: dict[int, optuna.Trial] = {}  # by number
        self.points: list[tuple[int, Params]] = []
        self.owed: list[FrozenTrial] = []
        self._read: list[FrozenTrial] | None = None  # until the next write: nobody else writes

    def note(self, key: str, value: Any) -> None:
        """Remember something of the study itself."""
        self.rows.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        """What `note` remembered, or None."""
        return self.rows.user_attrs.get(key)

    def trials(self) -> list[FrozenTrial]:
        """All trials, the baseline first."""
        if self._read is None:
            self._read = self.rows.get_trials(deepcopy=False)
        return self._read

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
        for row in self.trials():
            if row.state != TrialState.RUNNING:
                continue
            record = read_record(results / f"{self.uid(row.number)}.json")
            if self._tellable(row.number, record):
                self._settle(row.number, record or {})
            elif row.user_attrs.get("attempts", 1) >= ATTEMPTS and row.number > 0:
                self._fail(row.number, f"interrupted {ATTEMPTS} times, as the driver or node died")
            else:
                self.owed.append(row)

    def _tellable(self, number: int, record: Record | None) -> bool:
        """Whether a durable result ends its trial. A baseline that failed is measured again."""
        if record is None or record["state"] == "broken":
            return False
        return number > 0 or self.unusable(record) is None

    def begin(self, sampler: BaseSampler, starts: Sequence[Params]) -> None:
        """Load the sampler's copy, and put the starting points not yet tried first."""
        with _quiet():
            self.copy = optuna.create_study(sampler=sampler, directions=self.rows.directions)
            for row in self.trials()[1:]:
                self.copy.add_trial(row)
        tried = {row.user_attrs.get("start") for row in self.trials()}
        self.points = [(i, point) for i, point in enumerate(starts) if i not in tried]

    # -- handing out -------------------------------------------------------------------------

    def hand_out(self, ask: Callable[[optuna.Trial], object] | None) -> Assignment | None:
        """The next trial: one owed, else the baseline, else what the sampler proposes.

        Args:
            ask: runs the space on a trial; None while there is no baseline.

        Returns:
            None where the space refused the proposal, which is told as a failed trial.

        Raises:
            UserError: there is no baseline, and it cannot be measured any more.
        """
        if ask is None and self.trials() and not (self.owed and self.owed[0].number == 0):
            raise _no_baseline(self.name)
        if self.owed:
            row = self.owed.pop(0)
            attempts = row.user_attrs.get("attempts", 1) + 1
            self.rows._storage.set_trial_user_attr(row._trial_id, "attempts", attempts)
            self._read = None
            return Assignment(row.number, self.uid(row.number), row.params)
        if ask is None:
            return self._open({}, {}, {}, {})
        return self._propose(ask)

    def _propose(self, ask: Callable[[optuna.Trial], object]) -> Assignment | None:
        assert self.copy is not None, "begin() comes before the first proposal"
        attrs: dict[str, Any] = {}
        if self.points:
            attrs["start"], point = self.points.pop(0)
            self.copy.enqueue_trial(point)
        trial, refused = self.copy.ask(), None
        try:
            ask(trial)
        except Exception as error:  # a space may refuse a combination; a mistake in it shows here
            refused = f"the space refused: {type(error).__name__}: {error}"
        frozen = self.copy._storage.get_trial(trial._trial_id)
        found = self._open(frozen.params, frozen.distributions, attrs, frozen.system_attrs)
        self.asked[found.number] = trial
        if refused is None:
            return found
        self.fail(found.number, refused)
        return None

    def _open(
        self,
        params: Params,
        distributions: Mapping[str, Any],
        attrs: Mapping[str, Any],
        system: Mapping[str, Any],
    ) -> Assignment:
        row = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attrs),
            system_attrs=dict(system),
        )
        row.datetime_start, row.datetime_complete = datetime.now(), None
        number = len(self.trials())
        self.rows.add_trial(row)
        self._read = None
        return Assignment(number, self.uid(number), dict(params))

    def owe(self, number: int) -> None:
        """Hand a trial out again, under its number: its worker died."""
        self.owed.append(self.trials()[number])

    # -- telling -----------------------------------------------------------------------------

    def settle(self, number: int, record: Record) -> None:
        """Tell a trial's end, as its record has it.

        Raises:
            UserError: a baseline that did not go well; it stays owed.
        """
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
        self._write(number, {"state": "pruned", "metrics": {}, "progress": progress})
        self._tell(number, state=TrialState.PRUNED)
        self._mirror(number)

    def _settle(self, number: int, record: Record) -> None:
        if reason := self.unusable(record):
            self._fail(number, reason, record)
            return
        trial = self._write(number, record)
        baseline = record["metrics"] if number == 0 else self.baseline() or {}
        known = self.trials()[number].constraints  # of a driver that died while it told this trial
        for key, limit in self.limits.items():
            if key in known:
                continue
            value = record["metrics"][limit.metric]
            trial.set_constraint(key, limit.violation(value, baseline.get(limit.metric)))
        if record.get("facts"):  # before the baseline counts as measured
            self.note("facts", record["facts"])
        self._tell(number, [record["metrics"][name] for name in self.objectives])

    def unusable(self, record: Record) -> str | None:
        """Why a record is no result: what went wrong, or which metric is missing or no number."""
        if record["state"] != "complete":
            return str(record["reason"])
        wanted = [*self.objectives, *(limit.metric for limit in self.limits.values())]
        for name in wanted:
            value = record["metrics"].get(name)
            if value is None or not math.isfinite(value):
                return f"{name} was {'not measured' if value is None else value}"
        return None

    def _fail(self, number: int, reason: str, record: Record | None = None) -> None:
        self._write(number, {**(record or {}), "state": "fail", "reason": reason, "metrics": {}})
        self._tell(number, state=TrialState.FAIL)

    def _tell(
        self, number: int, values: list[float] | None = None, state: TrialState | None = None
    ) -> None:
        self.rows.tell(number, values, state=state)
        self._read = None

    def _write(self, number: int, record: Record) -> optuna.Trial:
        row = self.trials()[number]
        trial = optuna.Trial(self.rows, row._trial_id)
        trial.set_user_attr("record", {**record, "facts": None})
        return trial

    def _mirror(self, number: int) -> None:
        """Let the sampler see the end of a trial."""
        if self.copy is None or number == 0:
            return
        row, trial = self.trials()[number], self.asked.pop(number, None)
        with _quiet():
            if trial is None:  # handed out by an earlier driver: the copy has it as running
                trial = optuna.Trial(
                    self.copy, self.copy.get_trials(deepcopy=False)[number - 1]._trial_id
                )
            for key, value in row.constraints.items():
                trial.set_constraint(key, value)
            self.copy.tell(trial, row.values, state=row.state)


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


@contextlib.contextmanager
def _quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
