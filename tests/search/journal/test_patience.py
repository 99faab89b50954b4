"""A storage that is away, locked, full or gone: waited for, then told in one message."""

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import DataError, OperationalError

from search.journal import patience, store
from search.journal.patience import StorageError
from search.journal.view import read
from tests.support.journals import Sample, record
from trainables.core.cache import write_durably
from trainables.core.errors import UserError

METRICS = {"perplexity": 21.0, "parameters": 1e6}


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sample]:
    """A study with one trial that runs; a storage's silence is short."""
    monkeypatch.setattr(store, "LOCKED", 0.01)
    monkeypatch.setattr(patience, "PATIENCE", 30.0)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.05)
    made = Sample(tmp_path / "runs").run(upto=1)
    made.hand_out()
    yield made
    made.close()


@contextlib.contextmanager
def locked(sample: Sample) -> Iterator[None]:
    """Another process writes to the journal, and does not end."""
    with contextlib.closing(sqlite3.connect(sample.store.journal, isolation_level=None)) as other:
        other.execute("begin exclusive")
        yield
        other.execute("rollback")


def test_a_result_told_to_a_locked_journal_is_told_when_it_is_free(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tried = threading.Event()

    def warning(text: str, *values: object) -> None:
        said.append(text % values)
        tried.set()

    monkeypatch.setattr(patience.log, "warning", warning)
    telling = threading.Thread(target=sample.settle, args=(2, METRICS))
    with locked(sample):
        telling.start()
        assert tried.wait(20)
    telling.join()
    assert read(sample.store).trial(2).metrics == METRICS
    assert said == ["the journal does not answer, trying on: database is locked"]


def test_a_journal_that_stays_locked_is_one_message_and_the_trial_stays_owed(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.2)
    with locked(sample):
        with pytest.raises(StorageError) as caught:
            sample.settle(2, METRICS)
        with pytest.raises(StorageError) as again:  # what comes after it does not wait as long
            sample.journal.note("seconds", 3.0)
    assert again.value is caught.value
    where = f"sqlite:///{sample.store.journal}"
    assert str(caught.value).startswith(f"the journal at {where} cannot be used: database is lock")
    assert caught.value.__suppress_context__  # no traceback of other libraries below it
    uid = sample.journal.uid(2)
    write_durably(sample.store.results / f"{uid}.json", json.dumps(record(uid, 2, METRICS)))
    resumed = Sample(sample.store.folder)
    resumed.journal.reclaim(sample.store.results)
    resumed.close()
    assert read(sample.store).trial(2).metrics == METRICS


def test_a_full_disk_is_one_message_and_nothing_is_lost(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.2)
    most = [1]

    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"pragma max_page_count = {most[0]}")

    event.listen(sample.storage.engine, "checkout", limit)
    with pytest.raises(StorageError, match="database or disk is full"):
        sample.journal.settle(2, record("", 2, METRICS) | {"padding": "x" * 100_000})
    most[0] = 1_000_000
    view = read(sample.store)
    assert view.trial(2).state == "waiting"
    assert view.trial(1).metrics["perplexity"] == 21.0
    sample.settle(2, METRICS)
    assert read(sample.store).trial(2).state == "complete"


def moved(sample: Sample) -> None:
    sample.store.root.rename(sample.store.folder / "elsewhere")


def deleted(sample: Sample) -> None:
    shutil.rmtree(sample.store.root)


def made_anew(sample: Sample) -> None:
    shutil.rmtree(sample.store.root)
    Sample(sample.store.folder).close()


@pytest.mark.parametrize("happens", [moved, deleted, made_anew])
def test_a_folder_deleted_under_a_search_is_one_message_at_once(
    sample: Sample, happens: Callable[[Sample], None]
) -> None:
    happens(sample)
    for write in (
        lambda: sample.settle(2, METRICS),
        lambda: sample.hand_out(),
        lambda: sample.journal.note("seconds", 3.0),
    ):
        with pytest.raises(UserError, match=r"study\.db was deleted or replaced"):
            write()


def away() -> StorageInternalError:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OperationalError("insert", {}, Exception("server closed the connection"))
    return error


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "name",
    ["open", "end", "note"],
)
def test_a_write_whose_answer_is_lost_happens_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, name: str, before: bool
) -> None:
    real, failures = getattr(sample.journal.rows.tables, name), [away()]

    def flaky(*arguments: Any) -> Any:
        if failures and before:
            raise failures.pop()
        answer = real(*arguments)
        if failures:
            raise failures.pop()
        return answer

    monkeypatch.setattr(sample.journal.rows.tables, name, flaky)
    sample.settle(2, METRICS)
    assert sample.hand_out() == 3
    sample.journal.note("git_commit", "abc")
    assert not failures
    rows = sample.storage.get_all_trials(sample.journal.rows.id)
    assert [row.number for row in rows] == [0, 1, 2, 3]
    assert [row.state for row in rows[2:]] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert rows[2].values == [21.0, 1e6]


def test_what_waiting_does_not_mend_is_not_waited_for(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []

    def wrong(*_: object) -> None:
        calls.append(None)
        raise DataError("insert", {}, Exception("value too long"))

    monkeypatch.setattr(sample.journal.rows.tables, "note", wrong)
    with pytest.raises(StorageError, match="value too long"):
        sample.journal.note("git_commit", "abc")
    assert len(calls) == 1
