"""The plug is pulled after every single write of the journal and of the ledger, then all goes on.

No trial may be lost, none may run twice, and MLflow must end with one run for each of them below
one for the study.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler

from search.journal.journal import Journal
from search.journal.results import Result
from search.journal.store import Store, open_storage
from search.journal.view import read
from search.ledger import writer
from search.ledger.mirror import open_ledger
from search.study.load import study_toml
from tests.support.journals import BASELINE, Sample, record, sample_study, stages_of
from tests.support.ledgers import Runs, migrated_ledger
from trainables.core.cache import write_durably

BUDGET = 3  # trials: one that fails, one that is stopped, one that goes well
STARTS = [{"omission.skip.20": 1, "omission.skip.21": 0, "wanda.percent": 30}]


class Killed(BaseException):
    """The driver's process is gone: nothing of ours may catch it."""


def ask(trial: optuna.Trial) -> None:
    trial.suggest_int("omission.skip.20", 0, 1)
    trial.suggest_int("omission.skip.21", 0, 1)
    trial.suggest_int("wanda.percent", 0, 50)


class Driver:
    """One launch of a short study, as `launch` makes it; its workers leave durable results."""

    def __init__(self, folder: Path, ran: Counter[str]) -> None:
        self.study, self.ran = sample_study(), ran
        self.store = Store(folder, self.study.name)

    def run(self, written: Callable[[], None]) -> None:
        """Search until the budget is spent; `written` is called after every write."""
        storage = open_storage(self.store, create=True)
        commit = storage.engine.dialect.do_commit

        def committed(connection: Any) -> None:
            commit(connection)
            written()

        storage.engine.dialect.do_commit = committed  # type: ignore[method-assign]
        try:
            self._search(self._open(storage))
        finally:
            storage.engine.dispose()

    def _open(self, storage: Any) -> Journal:
        known = {limit.key: limit for limit in self.study.limits}
        journal = Journal(storage, self.study.name, self.study.objectives, known)
        journal.reclaim(self.store.results)
        journal.note("toml", study_toml(self.study))
        return journal

    def _search(self, journal: Journal) -> None:
        if journal.baseline() is None:
            given = journal.hand_out(None)
            assert given is not None
            metrics = record(given.uid, 0, BASELINE) | {"facts": {"blocks": 4}}
            journal.settle(0, self._work(given.uid, metrics))
        assert journal.noted("facts") == {"blocks": 4}
        journal.begin(RandomSampler(seed=len(journal.trials())), STARTS)
        while journal.owed or len(journal.trials()) <= BUDGET:
            given = journal.hand_out(ask)
            assert given is not None
            self._end(journal, given.number, given.uid)

    def _end(self, journal: Journal, number: int, uid: str) -> None:
        if number == 1:
            journal.settle(
                number, self._work(uid, {"state": "fail", "reason": "no", "metrics": {}})
            )
        elif number == 2:
            journal.stop(number, {"perplexity": 80.0})
        else:
            metrics = {"perplexity": 21.0, "parameters": 1e8}
            done = record(uid, number, metrics, stages_of((1, 0), 30))
            journal.settle(number, self._work(uid, done))

    def _work(self, uid: str, found: dict[str, Any]) -> dict[str, Any]:
        """What a worker does: durably, before the driver hears of it."""
        self.ran[uid] += 1
        write_durably(self.store.results / f"{uid}.json", json.dumps(found))
        return found

    def finish(self) -> int:
        """Launch until it is done; returns how many writes the last launch made."""
        writes: list[None] = []
        self.run(lambda: writes.append(None))
        return len(writes)


def after(writes: int) -> Callable[[], None]:
    """Kills the driver after so many writes."""
    left = [writes]

    def written() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Killed

    return written


def summary(store: Store) -> list[tuple[int, str, tuple[float, ...], tuple[str, ...]]]:
    def one(result: Result) -> tuple[int, str, tuple[float, ...], tuple[str, ...]]:
        values, keys = tuple(result.metrics.values()), tuple(result.violations)
        return result.number, result.state, values, keys

    return [one(result) for result in read(store).results]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal without a study, to be copied: its tables take longer than a search."""
    store = Store(tmp_path_factory.mktemp("empty"), "depth")
    open_storage(store, create=True).engine.dispose()
    return store.folder


def test_killed_after_any_write_of_the_journal_nothing_is_lost_or_run_twice(
    tmp_path: Path, empty: Path
) -> None:
    shutil.copytree(empty, tmp_path / "whole")
    whole = Driver(tmp_path / "whole", Counter())
    writes = whole.finish()
    expected = summary(whole.store)
    assert [state for _, state, _, _ in expected] == ["complete", "fail", "pruned", "complete"]
    assert writes >= 2 * (BUDGET + 1)  # each trial's beginning and its end at least
    for point in range(1, writes + 1):
        folder = tmp_path / str(point)
        shutil.copytree(empty, folder)
        driver = Driver(folder, Counter())
        with pytest.raises(Killed):
            driver.run(after(point))
        driver.finish()
        assert summary(driver.store) == expected, point
        assert read(driver.store).trial(1).params == STARTS[0], point  # the same point, once
        assert set(driver.ran.values()) == {1}, (point, driver.ran)
        assert len(driver.ran) == BUDGET, (point, driver.ran)  # the stopped one leaves no result


def test_killed_twice_in_a_row_nothing_is_lost_or_run_twice(tmp_path: Path, empty: Path) -> None:
    shutil.copytree(empty, tmp_path / "whole")
    whole = Driver(tmp_path / "whole", Counter())
    writes = whole.finish()
    expected = summary(whole.store)
    for first, second in [(n, 1 + (3 * n) % 5) for n in range(1, writes, 3)]:
        folder = tmp_path / f"{first}-{second}"
        shutil.copytree(empty, folder)
        driver = Driver(folder, Counter())
        for point in (first, second):
            with pytest.raises(Killed):
                driver.run(after(point))
        driver.finish()
        assert summary(driver.store) == expected, (first, second)
        assert set(driver.ran.values()) == {1}, (first, second)


# -- the ledger -----------------------------------------------------------------------------------

WRITES = (
    "create_experiment",
    "create_run",
    "log_batch",
    "log_artifacts",
    "set_tag",
    "set_terminated",
    "update_run",
    "set_experiment_tag",
)


def project(folder: Path, written: Callable[[], None]) -> None:
    """Bring the ledger up to date, as `sync` does."""
    ledger = open_ledger(Store(folder, "depth"))
    for name in WRITES:
        real = getattr(ledger.client, name)

        def writing(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            answer = real(*args, **kwargs)
            written()
            return answer

        setattr(ledger.client, name, writing)
    ledger.update(read(ledger.store), ending=True)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("searched")
    Sample(folder).run(upto=1).close()
    migrated_ledger(folder / "mlflow.db")
    yield folder


def shown(sample: Sample) -> Any:
    runs = Runs(sample)
    tags = [run.data.tags for run in runs.trials.values()]
    assert {tag["mlflow.parentRunId"] for tag in tags} == {runs.parent.info.run_id}
    told = {
        number: (run.info.status, run.data.metrics, run.data.params)
        for number, run in runs.trials.items()
    }
    files = {number: runs.artifact(run, "trial.toml") for number, run in runs.trials.items()}
    return runs.count, told, files, runs.parent.data.metrics, runs.parent.info.status


@pytest.mark.long
def test_killed_after_any_write_of_the_ledger_each_trial_has_one_run(
    tmp_path: Path, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "study_files", lambda view: {"study.toml": view.study.name})
    shutil.copytree(searched, tmp_path / "whole")
    writes: list[None] = []
    project(tmp_path / "whole", lambda: writes.append(None))
    whole = Sample(tmp_path / "whole")
    expected = shown(whole)
    whole.close()
    assert expected[0] == 3  # the study, the baseline, a trial
    for point in range(1, len(writes) + 1):
        folder = tmp_path / str(point)
        shutil.copytree(searched, folder)
        with pytest.raises(Killed):
            project(folder, after(point))
        project(folder, lambda: None)
        resumed = Sample(folder)
        assert shown(resumed) == expected, point
        resumed.close()
