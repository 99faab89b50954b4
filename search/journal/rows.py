"""A study's rows in its storage: read once, then kept up to date by their only writer.

Every write is one transaction, is tried again while the storage is away, and may have happened
although its answer was lost: so what is written twice is the same.
"""

import contextlib
import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.journal.fence import Driver, Fence
from search.journal.patience import Patience
from trainables.core.errors import UserError


class Rows:
    """One study's rows.

    Attributes:
        all: the rows, by number.
        notes: what is remembered of the study itself.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        directions: list[StudyDirection],
        driver: Driver,
    ) -> None:
        self.storage, self.name, self.directions = storage, name, directions
        self.patient = Patience(storage)
        self.id = self.patient(self._find)
        self.fence = Fence(storage, self.id, name, driver)
        self.patient(self.fence.take)
        self.all: list[FrozenTrial] = self.patient(
            lambda: storage.get_all_trials(self.id, deepcopy=False)
        )
        self.notes: dict[str, Any] = self.patient(lambda: storage.get_study_user_attrs(self.id))

    def _find(self) -> int:
        try:
            return self.storage.get_study_id_from_name(self.name)
        except KeyError:
            pass
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
        self._write(lambda: self.storage.set_study_user_attr(self.id, key, value))
        self.notes[key] = value

    def open(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        attrs: Mapping[str, Any],
        system: Mapping[str, Any],
    ) -> int:
        """Add a trial that runs from now on; returns its number."""
        row = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attrs),
            system_attrs=dict(system),
        )
        row.datetime_start, row.datetime_complete = datetime.now(), None
        row.number = len(self.all)
        tries: list[None] = []

        def create() -> int:
            tries.append(None)
            if len(tries) > 1 and (known := self._known(row.number)) is not None:
                return known
            return self.storage.create_new_trial(self.id, row)

        try:
            row._trial_id = self._write(create)
        except ValueError as error:  # Optuna's, of a choice with other choices than before
            do = "the space has changed: give the study a new name"
            raise UserError(f"study {self.name}: {error}", do=do) from error
        self.all.append(row)
        return row.number

    def _known(self, number: int) -> int | None:
        try:
            return self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        except KeyError:
            return None

    def mark(self, number: int, key: str, value: Any) -> None:
        """Remember something of a trial that has not ended."""
        row = self._running(number)
        self._write(lambda: self.storage.set_trial_user_attr(row._trial_id, key, value))
        row.user_attrs = {**row.user_attrs, key: value}
        self.all[number] = row

    def limit(self, number: int, key: str, violation: float) -> None:
        """Note by how much a trial misses a constraint, where that is not noted yet."""
        row = self._running(number)
        if key in row.constraints:  # by a driver that died while it told this trial
            return
        before = dict(row.system_attrs)
        row.system_attrs = dict(before)
        row.set_constraint(key, violation)
        for name in row.system_attrs.keys() - before.keys():
            value = row.system_attrs[name]
            self._write(
                lambda name=name, value=value: self.storage.set_trial_system_attr(  # type: ignore[misc]
                    row._trial_id, name, value
                )
            )
        self.all[number] = row

    def end(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        """Tell how a trial ended."""
        row = self._running(number)
        tries: list[None] = []

        def tell() -> None:
            tries.append(None)
            try:
                self.storage.set_trial_state_values(row._trial_id, state, values)
            except UpdateFinishedTrialError:
                if len(tries) == 1:
                    raise

        self._write(tell)
        row.state, row.datetime_complete = state, datetime.now()
        if values is not None:
            row.values = values
        self.all[number] = row

    def _running(self, number: int) -> FrozenTrial:
        """A copy to be changed: others may be reading the row."""
        row = copy.copy(self.all[number])
        if row.state.is_finished():
            raise ValueError(f"trial {number} has ended")
        return row

    def _write(self, call: Any) -> Any:
        def fenced() -> Any:
            self.fence.check()
            return call()

        return self.patient(fenced)
