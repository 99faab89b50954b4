"""A study as its journal has it: its trials as results, its state, who runs it."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from optuna.trial import FrozenTrial

from search.journal.confirmed import Confirmed, confirmed
from search.journal.fence import living
from search.journal.lock import driver_of
from search.journal.patience import Patience
from search.journal.results import Result, State, front, repeats, timed_alike
from search.journal.store import Store, find_store, open_storage, saved_study, study_names
from search.journal.tables import Tables, collector_paused, running
from search.samplers.points import PHASE
from search.study.database import stored
from search.study.schema import Study
from trainables.core.errors import UserError

StudyState = Literal["new", "running", "interrupted", "finished"]


@dataclass(frozen=True)
class View:
    """A study as its journal had it a moment ago."""

    study: Study
    results: tuple[Result, ...]
    driver: str | None = None  # who runs it now
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: tuple[Result, ...] = ()  # steps on the way to its trials, which are none

    @property
    def baseline(self) -> Result | None:
        """The untouched model, once measured."""
        found = self.results[:1]
        return found[0] if found and found[0].state == "complete" else None

    @property
    def base(self) -> Mapping[str, float]:
        """The untouched model's metrics; empty before they are measured."""
        return self.baseline.metrics if self.baseline else {}

    @property
    def doubts(self) -> list[str]:
        """What is to be said of the limits, as the baseline showed, and of times."""
        return [*(self.notes.get("doubts") or ()), *self._elsewhere]

    @property
    def _elsewhere(self) -> list[str]:
        """That some times were taken on other kinds of devices."""
        complete = [one for one in self.results if one.state == "complete"]
        alike = {one.number for one in timed_alike(complete, self.study.objectives)}
        others = [one for one in complete if one.number not in alike]
        kinds = ", ".join(sorted({str(one.device) for one in others}))
        told = f"{len(others)} trials were timed on {kinds}, not on the untouched model's device: "
        return [f"{told}they compete for nothing"] if others else []

    @property
    def confirmed(self) -> dict[int, Confirmed]:
        """What held-out data says, by number."""
        return confirmed(self.notes)

    @property
    def trials(self) -> tuple[Result, ...]:
        """All but the baseline."""
        return self.results[1:]

    @property
    def counts(self) -> dict[str, int | None]:
        """Trials by what became of them, without the baseline; planned is None without a limit.

        Finished are the models that were measured, repeats the trials that gave one of them again.
        """
        states, repeated = [result.state for result in self.trials], len(repeats(self.results))
        return {
            "finished": states.count("complete") + states.count("pruned") - repeated,
            "repeats": repeated,
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
            return "interrupted" if self.parts else "new"
        owed = any(not result.ended for result in self.results)
        return "finished" if self._spent and not owed else "interrupted"

    @property
    def failed(self) -> str:
        """A plain word where every trial failed, else nothing."""
        if not self.trials or any(one.state != "fail" for one in self.trials):
            return ""
        return f"no trial came to a result; the last one: {self.trials[-1].reason}"

    @property
    def _spent(self) -> bool:
        seconds, exhausted = float(self.notes.get("seconds") or 0), self.notes.get("exhausted")
        trials, repeated = len(self.trials), len(repeats(self.results))
        return self.study.budget.spent(trials, seconds, repeats=repeated, exhausted=exhausted)

    def refuse_routing(self, do: str) -> None:
        """Raise UserError where the trials are no stages that could be done again."""
        if self.study.route is not None:
            raise UserError(f"{self.study.name} is a routing study", do=do)

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
        self.patient = Patience(self.storage)
        try:
            found = self.patient(lambda: self.storage.get_study_id_from_name(store.study))
        except KeyError:
            self.close()
            raise _empty(store) from None
        self.tables, self.newest = Tables(self.storage, found), -1
        self.rows: dict[int, FrozenTrial] = {}
        self.results: dict[int, Result] = {}  # of trials that have ended

    def view(self) -> View:
        """The study as it is now."""
        driver = driver_of(self.store)
        notes = self.notes()
        if driver is None and self.store.database and (alive := living(notes)) is not None:
            driver = str(alive)  # its lock was lost, it was not
        study = _study(self.store, notes)
        with collector_paused():
            results = tuple(self._results(study, driving=bool(driver)))
            parts = tuple(self._parts(driving=bool(driver)))
        return View(study, results, driver, notes, parts)

    def _parts(self, *, driving: bool) -> Iterator[Result]:
        """What lies beside the trials, under `<study>/<part>`."""
        for part, number in self.patient(lambda: self.tables.below(self.store.study)):
            rows = self.patient(partial(Tables(self.storage, number).read, lean=True))
            yield from (replace(result_of(row, driving=driving), part=part) for row in rows)

    def notes(self) -> dict[str, Any]:
        """What is remembered of the study itself."""
        return self.patient(lambda: self.storage.get_study_user_attrs(self.tables.study_id))

    def _results(self, study: Study, *, driving: bool) -> list[Result]:
        again = [row._trial_id for row in self.rows.values() if running(row)]
        for row in self.patient(lambda: self.tables.read(self.newest, again, lean=True)):
            self.rows[row.number] = row
            self.newest = max(self.newest, row._trial_id)
            if not running(row):
                self.results[row.number] = result_of(row)
        found = [
            self.results.get(number) or result_of(self.rows[number], driving=driving)
            for number in sorted(self.rows)
        ]
        return with_front(found, study)

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


def read_all(folder: str, database: str | None) -> tuple[list[View], dict[str, Exception]]:
    """A place's studies as they are now, and by name why others cannot be read."""
    views: list[View] = []
    unread: dict[str, Exception] = {}
    for name in study_names(folder, database):
        try:
            views.append(read(find_store(folder, name, database)))
        except Exception as error:  # a foreign folder or a damaged file, which hides no other study
            unread[name] = error
    return views, unread


def saved_toml(store: Store) -> str:
    """The study's saved file; the journal has it whole where the file is torn or elsewhere."""
    text, noted = "", ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = store.toml.read_text(encoding="utf-8")
    with contextlib.suppress(UserError), contextlib.closing(Reader(store)) as reader:
        noted = reader.notes().get("toml", "")
    return noted if noted.startswith(text) else text


def _empty(store: Store) -> UserError:
    return UserError(f"study {store.study} has no trials yet", do="launch it first")


def _study(store: Store, notes: Mapping[str, Any]) -> Study:
    """The study as launched last."""
    text = notes.get("toml")
    if not text and not store.toml.is_file():
        raise _empty(store)
    try:
        study = saved_study(text or store.toml.read_text(encoding="utf-8"), store.study)
    except ValueError as error:  # an older journal does not have it
        do = "put the file back as it was launched"
        raise UserError(f"{store.toml} cannot be read: {error}", do=do) from None
    if (database := study.storage.database) is None:
        return study
    storage = study.storage.model_copy(update={"database": stored(database)})
    return study.model_copy(update={"storage": storage})  # an older journal holds its password


def results_of(study: Study, rows: Iterable[FrozenTrial], *, driving: bool = True) -> list[Result]:
    """The journal's rows as results, the baseline first.

    Args:
        driving: whether a driver works on the study; else a trial without an end is waiting.
    """
    return with_front([result_of(row, driving=driving) for row in rows], study)


def with_front(results: list[Result], study: Study) -> list[Result]:
    """The same, with those marked that are on the front."""
    chosen = {result.number for result in front(results, study.objectives)}
    return [
        dataclasses.replace(one, on_front=True) if one.number in chosen else one for one in results
    ]


def result_of(row: FrozenTrial, *, driving: bool = True) -> Result:
    """One row, without a word on whether it is on the front."""
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
        phase=tuple(row.system_attrs[PHASE]) if PHASE in row.system_attrs else None,
    )
