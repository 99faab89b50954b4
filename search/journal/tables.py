"""Optuna's tables, read and written a whole trial at a time: what it holds is one transaction.

Optuna's own storage writes a trial in as many transactions as it has facts, and looks up each of
its parameters before it writes it. Here a trial is opened in one and ended in one, so no crash
finds it half told, and what that costs does not grow with the study. The schema is Optuna's own;
its version was checked when the storage was opened.
"""

import functools
import gc
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

TRIALS: sa.Table = models.TrialModel.__table__
PARAMS: sa.Table = models.TrialParamModel.__table__
VALUES: sa.Table = models.TrialValueModel.__table__
USER: sa.Table = models.TrialUserAttributeModel.__table__
SYSTEM: sa.Table = models.TrialSystemAttributeModel.__table__
NOTES: sa.Table = models.StudyUserAttributeModel.__table__
STUDIES: sa.Table = models.StudyModel.__table__
FINITE = models.TrialValueModel.TrialValueType.FINITE

# What is run for every trial is built once: that takes several times as long as to run it.
_STUDY: sa.BindParameter[Any] = sa.bindparam("the_study")
_KEY: sa.BindParameter[Any] = sa.bindparam("the_key")
_TRIAL: sa.BindParameter[Any] = sa.bindparam("the_trial")
_NOTE = sa.and_(NOTES.c.study_id == _STUDY, NOTES.c.key == _KEY)
_NOTED = sa.select(NOTES.c.value_json).where(_NOTE)
_HELD = _NOTED.with_for_update()  # where the database can
_RENOTED = sa.update(NOTES).where(_NOTE)
_OPENED = sa.select(TRIALS.c.trial_id).where(
    TRIALS.c.study_id == _STUDY, TRIALS.c.number == sa.bindparam("the_number")
)
_UNVALUED = sa.delete(VALUES).where(VALUES.c.trial_id == _TRIAL)
_ENDED = sa.update(TRIALS).where(TRIALS.c.trial_id == _TRIAL)
_FORGOTTEN = {
    table: sa.delete(table).where(
        table.c.trial_id == _TRIAL, table.c.key.in_(sa.bindparam("the_keys", expanding=True))
    )
    for table in (USER, SYSTEM)
}

BRIEF = "brief"  # beside a record, what lists and choices ask of it

distribution = functools.lru_cache(maxsize=None)(json_to_distribution)


class Tables:
    """One study's part of the tables."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self.engine, self.study_id = storage.engine, study_id

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """All that is written inside, or nothing."""
        with self.engine.begin() as connection:
            yield connection

    def below(self, name: str) -> list[tuple[str, int]]:
        """The parts of a study, which lie under `<name>/<part>`: (part, its own id)."""
        named, most = STUDIES.c.study_name, f"{name}/"
        wanted = sa.select(named, STUDIES.c.study_id).where(named.startswith(most, autoescape=True))
        with self.engine.connect() as connection:
            found = connection.execute(wanted.order_by(STUDIES.c.study_id)).all()
        return [(row.study_name.removeprefix(most), row.study_id) for row in found]

    # -- notes of the study ------------------------------------------------------------------

    def noted(self, connection: sa.Connection, key: str, *, hold: bool = False) -> Any:
        """A note of the study, or None.

        Args:
            hold: nobody else changes it before the transaction ends, where the database can.
        """
        text = connection.scalar(_HELD if hold else _NOTED, self._note(key))
        return None if text is None else json.loads(text)

    def note(self, connection: sa.Connection, key: str, value: Any) -> None:
        """Remember something of the study."""
        text = json.dumps(value)
        changed = connection.execute(_RENOTED, {**self._note(key), "value_json": text})
        if not changed.rowcount:
            row = {"study_id": self.study_id, "key": key, "value_json": text}
            connection.execute(sa.insert(NOTES), row)

    def _note(self, key: str) -> dict[str, Any]:
        return {"the_study": self.study_id, "the_key": key}

    # -- trials ------------------------------------------------------------------------------

    def open(self, connection: sa.Connection, row: FrozenTrial) -> int:
        """Write a trial that runs; the same number again is the trial that was written before."""
        same = {"the_study": self.study_id, "the_number": row.number}
        known = connection.scalar(_OPENED, same)
        if known is not None:
            return int(known)
        head = {
            "study_id": self.study_id,
            "number": row.number,
            "state": row.state,
            "datetime_start": _utc(row.datetime_start),
        }
        key = connection.execute(sa.insert(TRIALS), head).inserted_primary_key
        assert key is not None
        trial_id = int(key[0])
        params = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": row.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(row.distributions[name]),
            }
            for name, value in row.params.items()
        ]
        if params:
            connection.execute(sa.insert(PARAMS), params)
        self._add(connection, USER, trial_id, row.user_attrs)
        self._add(connection, SYSTEM, trial_id, row.system_attrs)
        return trial_id

    def mark(self, connection: sa.Connection, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Remember something of a trial."""
        self._attributes(connection, USER, trial_id, attributes)

    def end(self, connection: sa.Connection, row: FrozenTrial) -> None:
        """Write how a trial ended, and all that is known of it."""
        trial_id = row._trial_id
        self._attributes(connection, USER, trial_id, row.user_attrs)
        self._attributes(connection, SYSTEM, trial_id, row.system_attrs)
        connection.execute(_UNVALUED, {"the_trial": trial_id})
        values = [
            {"trial_id": trial_id, "objective": index, "value": value, "value_type": FINITE}
            for index, value in enumerate(row.values or ())
        ]
        if values:
            connection.execute(sa.insert(VALUES), values)
        ended = {"state": row.state, "datetime_complete": _utc(row.datetime_complete)}
        connection.execute(_ENDED, {"the_trial": trial_id, **ended})

    def reopen(self, connection: sa.Connection, row: FrozenTrial) -> None:
        """Write that a trial which had failed runs again, and forget how it ended."""
        ours = USER.c.trial_id == row._trial_id
        connection.execute(sa.delete(USER).where(ours))
        self._attributes(connection, USER, row._trial_id, row.user_attrs)
        state = {"state": TrialState.RUNNING, "datetime_complete": None}
        same = TRIALS.c.trial_id == row._trial_id
        connection.execute(sa.update(TRIALS).where(same).values(state))

    def _attributes(
        self, connection: sa.Connection, table: sa.Table, trial_id: int, found: Mapping[str, Any]
    ) -> None:
        if not found:
            return
        old = {"the_trial": trial_id, "the_keys": list(found)}
        connection.execute(_FORGOTTEN[table], old)
        self._add(connection, table, trial_id, found)

    def _add(
        self, connection: sa.Connection, table: sa.Table, trial_id: int, found: Mapping[str, Any]
    ) -> None:
        rows = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for key, value in found.items()
        ]
        if rows:
            connection.execute(sa.insert(table), rows)

    def read(
        self, after: int = -1, again: Collection[int] = (), *, lean: bool = False
    ) -> list[FrozenTrial]:
        """Trials by number: those with an id above `after`, and those asked for again.

        Args:
            lean: for those who look at few of many: no values and distributions, and records that
                are decoded when they are looked into.
        """
        wanted = TRIALS.c.study_id == self.study_id
        if after >= 0:
            newer = TRIALS.c.trial_id > after
            wanted = sa.and_(wanted, sa.or_(newer, TRIALS.c.trial_id.in_(sorted(again))))
        with self.engine.connect() as connection, collector_paused():
            # The heads first: what has ended is whole.
            query = sa.select(TRIALS).where(wanted).order_by(TRIALS.c.trial_id)
            heads = connection.execute(query).all()
            if lean:
                return list(self._lean(connection, heads, wanted))
            parts = [self._parts(connection, table, wanted) for table in PARTS]
            return [_row(head, *(part.get(head.trial_id, ()) for part in parts)) for head in heads]

    def _lean(
        self, connection: sa.Connection, heads: Sequence[Any], wanted: sa.ColumnElement[bool]
    ) -> Iterator[FrozenTrial]:
        briefed = sa.select(USER.c.trial_id).where(USER.c.key == BRIEF)
        others = sa.and_(wanted, TRIALS.c.trial_id.not_in(briefed))
        params = self._parts(connection, PARAMS, others)
        user, own = (self._parts(connection, table, wanted) for table in (USER, SYSTEM))
        for head in heads:
            key = head.trial_id
            row = _row(head, params.get(key, ()), (), (), own.get(key, ()))
            texts = {name: text for _, name, text in user.get(key, ())}
            brief, record = texts.pop(BRIEF, None), texts.pop("record", None)
            row.user_attrs = {name: json.loads(text) for name, text in texts.items()}
            if record is not None:
                row.user_attrs["record"] = later = Later(record, json.loads(brief or "{}"))
                if brief is not None:
                    row.params = Part(later, "params")  # type: ignore[assignment]
            yield row

    def _parts(
        self, connection: sa.Connection, table: sa.Table, wanted: sa.ColumnElement[bool]
    ) -> dict[int, list[Any]]:
        """Rows of a table by trial, in the order they were written."""
        columns = [table.c.trial_id, *(table.c[name] for name in PARTS[table])]
        first = next(iter(table.primary_key.columns))
        query = sa.select(*columns).join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
        found: dict[int, list[Any]] = {}
        cursor = connection.execute(query.where(wanted).order_by(first)).cursor
        assert cursor is not None
        for row in cursor.fetchall():  # plain tuples: there are many
            found.setdefault(row[0], []).append(row)
        return found


def brief(record: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `read(lean=True)` need not decode a record for; None where the record does not hold the
    trial's parameters, as older ones did not."""
    if record.get("params") != dict(params):
        return None
    return {
        name: record.get(name) for name in ("metrics", "lineage", "same_as", "reason", "hardware")
    }


class Later(Mapping[str, Any]):
    """A JSON object that is decoded when something is looked up in it that is not known already."""

    def __init__(self, text: str, known: Mapping[str, Any]) -> None:
        self.text, self.known = text, known

    @functools.cached_property
    def _all(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found

    def __getitem__(self, name: str) -> Any:
        return self.known[name] if name in self.known else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


class Part(Mapping[str, Any]):
    """An object inside another one that is decoded later."""

    def __init__(self, whole: Later, name: str) -> None:
        self.whole, self.name = whole, name

    def __getitem__(self, name: str) -> Any:
        return self.whole[self.name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole[self.name])

    def __len__(self) -> int:
        return len(self.whole[self.name])


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's collector would look through all the new rows again and again: a third of the time,
    and nothing to collect."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


PARTS = {
    PARAMS: ("param_name", "param_value", "distribution_json"),
    VALUES: ("objective", "value"),
    USER: ("key", "value_json"),
    SYSTEM: ("key", "value_json"),
}


def _row(
    head: Any, params: Sequence[Any], values: Sequence[Any], user: Sequence[Any], own: Sequence[Any]
) -> FrozenTrial:
    known: dict[str, BaseDistribution] = {name: distribution(text) for _, name, _, text in params}
    numbers = [value for _, _, value in sorted(values, key=lambda one: one[1])]
    return FrozenTrial(
        number=head.number,
        trial_id=head.trial_id,
        state=head.state,
        value=None,
        values=numbers or None,
        datetime_start=_local(head.datetime_start),
        datetime_complete=_local(head.datetime_complete),
        params={name: known[name].to_external_repr(value) for _, name, value, _ in params},
        distributions=known,
        user_attrs={key: json.loads(text) for _, key, text in user},
        system_attrs={key: json.loads(text) for _, key, text in own},
        intermediate_values={},
    )


def _utc(when: datetime | None) -> datetime | None:
    """As Optuna stores it: in UTC, without saying so."""
    return None if when is None else when.astimezone(UTC).replace(tzinfo=None)


def _local(when: datetime | None) -> datetime | None:
    return None if when is None else when.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def running(row: FrozenTrial) -> bool:
    """Whether a trial has not ended."""
    return row.state == TrialState.RUNNING
