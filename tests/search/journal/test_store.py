"""Where a study lives: folders, journals, and one driver at a time."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from search.errors import redacted
from search.journal.lock import study_lock
from search.journal.store import Store, find_store, network_file_system, open_storage, study_names
from search.study.checks import database_problems
from search.study.schema import database_url
from trainables.core.errors import UserError

POSTGRES = os.environ.get("RAYDUCE_TEST_POSTGRES")
HOLD = """
import sys
from pathlib import Path
from search.journal.store import Store, study_lock
with study_lock(Store(Path(sys.argv[1]), "depth", sys.argv[2] or None)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs", "depth")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    yield from _hold(tmp_path / "runs", "")


def _hold(folder: Path, database: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the study."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _study(store: Store, name: str = "depth") -> None:
    storage = open_storage(store, create=True)
    optuna.create_study(storage=storage, study_name=name, directions=["minimize", "maximize"])
    storage.engine.dispose()


def test_places(store: Store, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert store.journal == runs / "depth" / "study.db"
    assert store.url == f"sqlite:///{runs}/depth/study.db"
    assert store.results == runs / "depth" / "results"
    assert (store.cache, store.ledger) == (runs / "cache", runs / "mlflow.db")


def test_a_journal_lasts(store: Store) -> None:
    _study(store)
    assert store.results.is_dir()
    storage = open_storage(store)
    assert optuna.get_all_study_names(storage) == ["depth"]
    storage.engine.dispose()


def test_looking_creates_nothing(store: Store) -> None:
    with pytest.raises(UserError, match="nothing yet: launch a study first"):
        open_storage(store)
    assert not store.folder.exists()


def test_a_name_that_is_not_there(store: Store) -> None:
    _study(store)
    with pytest.raises(UserError) as caught:
        find_store(store.folder, "dept")
    assert str(caught.value) == (
        f'no such study in {store.folder}: got "dept"; allowed: depth; did you mean "depth"?'
    )
    assert find_store(store.folder, "depth") == store


def test_the_saved_file_says_where_the_journal_is(store: Store) -> None:
    store.create()
    store.toml.write_text('name = "depth"\n[storage]\ndatabase = "postgresql://host/name"\n')
    with pytest.raises(UserError, match=r"cannot open the journal at postgresql://host/name"):
        find_store(store.folder, "depth")
    assert study_names(store.folder) == ["depth"]


def test_a_file_that_is_no_database(store: Store) -> None:
    store.create()
    store.journal.write_text("not a database, " * 100)
    with pytest.raises(UserError, match="file is not a database"):
        open_storage(store)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*--storage"):
        open_storage(Store(tmp_path / "file", "depth"), create=True)


def test_one_driver_at_a_time(store: Store, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(UserError) as caught, study_lock(store):
        pass
    assert f"pid {holder.pid} since 20" in str(caught.value)
    assert "rayduce status depth" in caught.value.do
    with study_lock(Store(store.folder, "other")):
        pass


def test_a_dead_driver_holds_nothing(store: Store, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert store.owner.exists()
    with study_lock(store):
        assert f"pid {os.getpid()}" in store.owner.read_text()
    assert not store.owner.exists()


def test_refused_driver_leaves_the_owner_alone(
    store: Store, holder: "subprocess.Popen[str]"
) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=f"pid {holder.pid}"), study_lock(store):
            pass


def test_a_lock_may_be_released_elsewhere(store: Store) -> None:
    lock = study_lock(store)
    lock.__enter__()
    thread = threading.Thread(target=lock.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert not store.owner.exists()
    with study_lock(store):
        assert store.owner.exists()


def test_database_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    url = "postgresql://me:$SECRET@host:5432/name"
    assert database_url(url) == "postgresql+psycopg://me:s3cret@host:5432/name"
    assert database_url("postgres://host/name") == "postgresql+psycopg://host/name"
    assert redacted(database_url(url)) == "postgresql+psycopg://me@host:5432/name"
    assert redacted("sqlite:///file.db") == "sqlite:///file.db"
    assert database_problems(url) == database_problems(None) == []
    monkeypatch.delenv("SECRET")
    assert "variable is not set" in str(database_problems(url)[0])
    (problem,) = database_problems("mysql://me:s3cret@host/name")
    assert "s3cret" not in str(problem)
    assert '"postgresql://user:$PASSWORD@host/name"' in problem.allowed


def test_no_server(tmp_path: Path) -> None:
    store = Store(tmp_path, "depth", "postgresql://me:s3cret@127.0.0.1:9/name")
    for attempt in (lambda: open_storage(store), lambda: study_lock(store).__enter__()):
        with pytest.raises(UserError) as caught:
            attempt()
        assert "cannot open the journal at postgresql://me@127.0.0.1:9/name" in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_local_disks_are_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_file_system(tmp_path) is None
    table = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: table)
    assert network_file_system(tmp_path / "runs") == "nfs4"


@pytest.mark.skipif(POSTGRES is None, reason="RAYDUCE_TEST_POSTGRES names no server")
def test_postgres_one_driver_even_without_a_common_folder(tmp_path: Path) -> None:
    here = Store(tmp_path / "here", "depth", POSTGRES)
    other = _hold(tmp_path / "there", str(POSTGRES))
    process = next(other)
    with pytest.raises(UserError, match=f"pid {process.pid} since 20"), study_lock(here):
        pass
    process.kill()
    process.wait()
    with study_lock(here):
        storage = open_storage(here, create=True)
        study = optuna.create_study(
            storage=storage, study_name="depth", directions=["minimize"], load_if_exists=True
        )
        before = len(study.trials)
        trial = study.ask()
        trial.set_constraint("size <= 5", -1.0)
        study.tell(trial, 1.0)
        assert len(study.trials) == before + 1
        storage.engine.dispose()
    assert "depth" in study_names(tmp_path, POSTGRES)
    assert find_store(tmp_path / "here", "depth", POSTGRES) == here
