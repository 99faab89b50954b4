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
from sqlalchemy import event

from search.journal.lock import driver_of, owner_name, study_lock
from search.journal.store import (
    Store,
    find_store,
    launched,
    network_file_system,
    open_storage,
    study_names,
    write_text,
)
from search.journal.view import read
from search.study.load import compare
from tests.support.journals import TOML, Sample, sample_study
from tests.support.postgres import WHY_NOT, binaries, postgres
from trainables.core.errors import UserError

POSTGRES = os.environ.get("RAYDUCE_TEST_POSTGRES")
HOLD = """
import sys
from pathlib import Path
from search.journal.lock import study_lock
from search.journal.store import Store
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
    assert str(store.url) == f"sqlite:///{runs}/depth/study.db"
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


def test_a_lock_that_cannot_be_made_is_one_message(store: Store) -> None:
    store.lock.mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write to .*depth: Is a directory.*--storage"):
        study_lock(store).__enter__()


def test_a_dead_driver_holds_nothing(store: Store, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert store.owner.exists()
    with study_lock(store):
        assert f"pid {os.getpid()} since" in str(owner_name(store))
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


@pytest.mark.skipif(binaries() is None, reason=WHY_NOT)
def test_postgres_a_driver_of_another_database_is_not_ours(tmp_path: Path) -> None:
    with postgres() as server:
        one, other = (server.create(name) for name in ("one", "other"))
        with study_lock(Store(tmp_path / "here", "depth", one)) as me:
            assert driver_of(Store(tmp_path / "there", "depth", one)) == str(me)
            assert driver_of(Store(tmp_path / "there", "depth", other)) is None
            with study_lock(Store(tmp_path / "there", "depth", other)):
                pass


# -- what was launched before ----------------------------------------------------------------------


def test_another_study_of_the_name_in_a_shared_journal_is_seen(tmp_path: Path) -> None:
    made = Sample(tmp_path / "here").run(upto=1)
    before = made.storage.get_all_trials(made.journal.rows.id)
    there = Store(tmp_path / "there", "depth")  # a machine that has not seen the study
    ((found, place),) = launched(there, made.storage)
    other = sample_study(TOML.replace("seed = 7", "seed = 8"))
    assert (compare(found, other), place) == (["seed: was 7, now 8"], "the journal")
    assert compare(found, sample_study()) == []
    assert [study for study, _ in launched(made.store, made.storage)] == [found, found]
    assert made.storage.get_all_trials(made.journal.rows.id) == before
    made.close()


def test_a_study_of_another_program_in_a_shared_journal_is_refused(store: Store) -> None:
    storage = open_storage(store, create=True)
    assert list(launched(store, storage)) == []
    study = optuna.create_study(storage=storage, study_name="depth")
    assert list(launched(store, storage)) == []
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UserError, match="of another program; give the study a new name"):
        list(launched(store, storage))
    storage.engine.dispose()


def test_a_saved_study_that_is_torn_or_of_another_version(store: Store) -> None:
    storage = open_storage(store, create=True)
    store.toml.write_text('name = "dep')
    assert list(launched(store, storage)) == []
    store.toml.write_text('name = "depth"\nspeed = 3\n')
    with pytest.raises(UserError, match=r"another version of Rayduce: .*speed: Extra"):
        list(launched(store, storage))
    storage.engine.dispose()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match=r"cannot write .*gone/study.toml: No such file"):
        write_text(tmp_path / "gone" / "study.toml", "three")


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%25b", "a b", "a{b}", "a&b=c"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    made = Sample(tmp_path / name).run(upto=1)
    made.close()
    assert made.store.journal.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert find_store(tmp_path / name, "depth").root == made.store.root
    assert len(read(made.store).results) == 2


def test_an_owner_without_its_keys_is_nobody(store: Store) -> None:
    store.create()
    for text in ("{}", "[]", '{"who": "me"}', "{", ""):
        store.owner.write_text(text)
        assert owner_name(store) is None
        assert driver_of(store) is None


@pytest.mark.parametrize("kind", ["OperationalError", "IntegrityError"])
def test_a_journal_that_another_process_is_making_is_opened_a_moment_later(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy.exc

    error = getattr(sqlalchemy.exc, kind)("insert", {}, Exception("alembic_version.version_num"))
    made, left = optuna.storages.RDBStorage, [error, error]

    def racing(*given: object, **settings: object) -> object:
        if left:
            raise left.pop()
        return made(*given, **settings)

    monkeypatch.setattr("optuna.storages.RDBStorage", racing)
    open_storage(Store(tmp_path, "depth"), create=True).engine.dispose()
    assert left == []


def test_a_trial_takes_as_many_statements_at_the_end_of_a_study_as_at_its_beginning(
    tmp_path: Path,
) -> None:
    sample, counts, said = Sample(tmp_path), list[int](), list[str]()
    sample.baseline()
    event.listen(
        sample.storage.engine, "before_cursor_execute", lambda *given: said.append(given[2])
    )
    for number in range(25):
        said.clear()
        percent, chosen = number % 51, (number & 1, number >> 1 & 1)
        sample.settle(sample.hand_out(chosen, percent), {"perplexity": 21.0, "parameters": 1e8})
        counts.append(len(said))
    assert len(set(counts[1:])) == 1, counts
