"""The claim on a study: one driver writes, whatever became of its lock."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage

from search.journal import fence
from search.journal.fence import Driver, Fence, living
from search.journal.journal import Journal
from search.journal.lock import study_lock
from search.journal.store import Store, open_storage
from search.journal.tables import Tables
from tests.support.journals import Sample, memory
from trainables.core.errors import UserError

POSTGRES = os.environ.get("RAYDUCE_TEST_POSTGRES")


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[RDBStorage]:
    """A storage that two machines share; signs of life come fast."""
    monkeypatch.setattr(fence, "PAUSE", 0.02)
    monkeypatch.setattr(fence, "SILENCE", 0.5)
    made = memory()
    optuna.create_study(storage=made, study_name="depth")
    yield made
    made.engine.dispose()


def claimed(storage: RDBStorage, driver: Driver) -> Fence:
    made = Fence(Tables(storage, 1), "depth", driver)
    made.shared = True
    made.take()
    return made


def checked(claim: Fence) -> None:
    with claim.tables.transaction() as connection:
        claim.check(connection)


def test_a_driver_that_lost_its_lock_but_lives_keeps_the_study(storage: RDBStorage) -> None:
    first = claimed(storage, Driver())
    assert living(storage.get_study_user_attrs(1)) == first.me
    with pytest.raises(UserError, match=f"running already: .* pid {os.getpid()} since 20"):
        claimed(storage, Driver())
    checked(first)
    first.release()
    assert living(storage.get_study_user_attrs(1)) is None


def test_a_silent_driver_on_another_machine_loses_the_study(storage: RDBStorage) -> None:
    first = claimed(storage, replace(Driver(), host="another"))
    first._over.set()  # as if it had been killed
    second = claimed(storage, Driver())
    checked(second)
    with pytest.raises(UserError, match=r"taken over by .* pid"):
        checked(first)
    second.release()


def test_a_dead_driver_of_this_machine_is_not_waited_for(
    storage: RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "SILENCE", 600.0)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    first = claimed(storage, replace(Driver(), pid=process.pid))
    first._over.set()
    second = claimed(storage, Driver())
    with pytest.raises(UserError, match=r"taken over by .* pid"):
        checked(first)
    second.release()


def test_the_driver_that_was_replaced_writes_nothing_more(tmp_path: Path) -> None:
    first = Sample(tmp_path).run(upto=1)
    second = Sample(tmp_path)
    before = second.storage.get_all_trials(second.journal.rows.id)
    for write in (first.hand_out, lambda: first.journal.note("git_commit", "of the first")):
        with pytest.raises(UserError, match=r"study depth was taken over by .* this one has ended"):
            write()
    assert second.storage.get_all_trials(second.journal.rows.id) == before
    assert second.journal.noted("git_commit") == "0123abc"
    first.close()
    second.close()


def test_a_user_id_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(fence.getpass, "getuser", nameless)
    assert str(Driver()).startswith(f"uid {os.getuid()}@{socket.gethostname()} pid ")


@pytest.mark.parametrize("data", [None, 3, {}, {"who": "me", "since": "then"}, {"pid": "1"}])
def test_what_is_no_claim_is_read_as_none(data: object) -> None:
    assert Driver.read(data) is None


@pytest.mark.skipif(POSTGRES is None, reason="RAYDUCE_TEST_POSTGRES names no server")
def test_postgres_a_driver_whose_connection_was_cut_keeps_the_study(tmp_path: Path) -> None:
    here, there = (Store(tmp_path / place, "fenced", POSTGRES) for place in ("here", "there"))
    with study_lock(here) as me:
        storage = open_storage(here, create=True)
        journal = Journal(storage, "fenced", {"perplexity": "min"}, driver=me)
        with storage.engine.begin() as connection:  # as a server that restarts would
            connection.execute(sa.text(CUT), {"name": f"rayduce {me}"[:63]})
        with study_lock(there) as other:
            second = open_storage(there, create=True)
            with pytest.raises(UserError, match=f"running already: .* pid {os.getpid()}"):
                Journal(second, "fenced", {"perplexity": "min"}, driver=other)
        journal.note("git_commit", "of the first")
        journal.close()
        with study_lock(there) as other:
            Journal(second, "fenced", {"perplexity": "min"}, driver=other).close()
            with pytest.raises(UserError, match="taken over by"):
                journal.note("git_commit", "of the first again")
        storage.engine.dispose()
        second.engine.dispose()


CUT = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = :name"
