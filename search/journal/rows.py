"""A study's rows in its storage: read once, then kept up to date by their only writer.

Every write is one transaction, is tried again while the storage is away, and may have happened
although its answer was lost: so what is written twice is the same.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.journal.fence import Driver, Fence
from search.journal.patience import Patience
from search.journal.tables import BRIEF, Tables, brief
from trainables.core.errors import UserError

T = TypeVar("T")


class Rows:
    """One study's rows.

    Attributes:
        all: the rows, by number.
        notes: what is remembered of the study itself.
    """

    def __init__(
        self, storage: RDBStorage, name: str, directions: list[StudyDirection], driver: Driver
    ) -> None:
        self.storage, self.name, self.directions = storage, name, directions
        self.patient = Patience(storage)
        self.id = self.patient(self._find)
        self.tables = Tables(storage, self.id)
        self.fence = Fence(self.tables, name, driver)
        self.patient(self.fence.take)
        self.all: list[FrozenTrial] = self.patient(self.tables.read)
        self.notes: dict[str, Any] = self.patient(lambda: storage.get_study_user_attrs(self.id))
        self._asked: dict[str, BaseDistribution] = {}  # by parameter, as it was asked for before
        for row in self.all:
            self._asked |= row.distributions

    def _find(self) -> int:
        with contextlib.suppress(KeyError):
            return self.storage.get_study_id_from_name(self.name)
        try:
            return self.storage.create_new_study(self.directions, self.name)
        except DuplicatedStudyError:  # a try whose answer was lost
            return self.storage.get_study_id_from_name(self.name)

    def close(self) -> None:
        """Let another driver have the study."""
        with contextlib.suppress(UserError):
            self.patient(self.fence.release)

    def note(self, key: str, value: Any) -> None:
        """Remember something of the study itself."""
        self._write(lambda connection: self.tables.note(connection, key, value))
        self.notes[key] = value

    def open(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attrs: Mapping[str, Any],
        system: Mapping[str, Any],
    ) -> int:
        """Add a trial that runs from now on; returns its number.

        Raises:
            UserError: a parameter has other choices than it had before.
        """
        self._check(distributions)
        row = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attrs),
            system_attrs=dict(system),
        )
        row.datetime_start, row.datetime_complete = datetime.now(), None
        row.number = len(self.all)
        row._trial_id = self._write(lambda connection: self.tables.open(connection, row))
        self.all.append(row)
        self._asked |= row.distributions
        return row.number

    def _check(self, distributions: Mapping[str, BaseDistribution]) -> None:
        for name, found in distributions.items():
            try:
                check_distribution_compatibility(self._asked.get(name, found), found)
            except ValueError as error:
                do = "the space has changed: give the study a new name"
                raise UserError(f"study {self.name}: parameter {name}: {error}", do=do) from error

    def mark(self, number: int, key: str, value: Any) -> None:
        """Remember something of a trial that has not ended."""
        row = self._running(number)
        self._write(lambda connection: self.tables.mark(connection, row._trial_id, {key: value}))
        row.user_attrs = {**row.user_attrs, key: value}
        self.all[number] = row

    def end(
        self,
        number: int,
        state: TrialState,
        record: Mapping[str, Any],
        values: list[float] | None = None,
        violations: Mapping[str, float] | None = None,
    ) -> None:
        """Tell how a trial ended."""
        row = self._running(number)
        row.user_attrs = {**row.user_attrs, "record": dict(record)}
        if state == TrialState.COMPLETE and (told := brief(record, row.params)) is not None:
            row.user_attrs[BRIEF] = told
        row.system_attrs = dict(row.system_attrs)
        for key, violation in (violations or {}).items():
            if key not in row.constraints:
                row.set_constraint(key, violation)
        row.state, row.datetime_complete = state, datetime.now()
        if values is not None:
            row.values = values
        self._write(lambda connection: self.tables.end(connection, row))
        self.all[number] = row

    def reopen(self, number: int) -> None:
        """Let a trial that had failed run again, as if it had never been handed out."""
        row = copy.copy(self.all[number])
        gone = ("record", "attempts")
        row.user_attrs = {key: one for key, one in row.user_attrs.items() if key not in gone}
        row.state, row.datetime_complete = TrialState.RUNNING, None
        self._write(lambda connection: self.tables.reopen(connection, row))
        self.all[number] = row

    def _running(self, number: int) -> FrozenTrial:
        """A copy to be changed: others may be reading the row."""
        row = copy.copy(self.all[number])
        if row.state.is_finished():
            raise ValueError(f"trial {number} has ended")
        return row

    def _write(self, call: Callable[[sa.Connection], T]) -> T:
        def fenced() -> T:
            with self.tables.transaction() as connection:
                self.fence.check(connection)
                return call(connection)

        return self.patient(fenced)
