"""Things are broken under a study that runs: nodes, the head, the database, the ledger, the disk.

After each, every finished trial is in the journal and in the ledger once, and the budget is met;
meanwhile `status` tells the truth. `make test-chaos` runs them; a driver and a worker are killed in
test_launch.py, in every run of the tests.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search.journal.store import Store
from search.journal.view import read
from tests.support.cluster import QUIET, Nodes, nodes
from tests.support.launches import Driver, tiny_study
from tests.support.postgres import WHY_NOT, Postgres, binaries, postgres
from tests.support.truth import embedded, nothing_lost

pytestmark = pytest.mark.filterwarnings("ignore")
BUDGET = 8


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tiny_study(tmp_path, budget=BUDGET)


def joins(cluster: Nodes, folder: Path) -> int:
    """A node of one CPU, which notes its measurements where the driver does."""
    return cluster.add(1, RAYDUCE_TEST_LOG=str(folder / "measured.log"))


def state(driver: Driver) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(driver.run("status", "killed", "--json"))
    return found


def ended(process: "subprocess.Popen[str]", code: int = 0, seconds: float = 400) -> str:
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, said
    return said


def whole(driver: Driver, before: list[Any], store: Store | None = None) -> None:
    found = store or Store(driver.folder / "runs", "killed")
    nothing_lost(found, BUDGET, before, driver.rows(), embedded(driver.folder))


# -- nodes ---------------------------------------------------------------------------------------


@pytest.mark.chaos
def test_a_node_is_killed_under_its_trials_and_the_others_do_them(
    study: Path, tmp_path: Path
) -> None:
    with nodes() as cluster:
        first, _ = joins(cluster, tmp_path), joins(cluster, tmp_path)
        driver = Driver(tmp_path, **cluster.environment)
        process = driver.start("launch", str(study))
        driver.wait_for(finished=3)
        before = driver.rows()
        cluster.kill(first)
        assert state(driver)["state"] == "running"
        ended(process)
    whole(driver, before)


@pytest.mark.chaos
def test_three_nodes_lose_one_and_the_head_and_the_best_run_is_exported_elsewhere(
    study: Path, tmp_path: Path
) -> None:
    with nodes() as cluster:
        first = joins(cluster, tmp_path)
        joins(cluster, tmp_path), joins(cluster, tmp_path)
        driver = Driver(tmp_path, **cluster.environment)
        process = driver.start("launch", str(study))
        driver.wait_for(finished=2)
        cluster.kill(first)
        driver.wait_for(finished=4)
        before = driver.rows()
        cluster.kill()
        process.communicate(timeout=400)
        assert process.returncode not in (0, None)
    assert state(driver)["state"] == "interrupted"
    with nodes() as cluster:
        joins(cluster, tmp_path)
        again = Driver(tmp_path, **cluster.environment)
        ended(again.start("resume", "killed"))
    whole(again, before)
    best = json.loads(again.run("best", "killed", "--json"))["trials"][0]
    (tmp_path / "elsewhere").mkdir()
    other = Driver(tmp_path / "elsewhere")
    other.run("export", best["run_id"], "--mlflow", embedded(tmp_path), "--to", "out")
    made = json.loads((other.folder / "out" / "compression.json").read_text())
    assert made["lineage"] == read(Store(tmp_path / "runs", "killed")).trial(best["number"]).lineage
    assert (other.folder / "out" / "model.safetensors").exists()


@pytest.mark.chaos
def test_driver_worker_and_node_are_killed_in_one_study(study: Path, tmp_path: Path) -> None:
    with nodes() as cluster:
        joins(cluster, tmp_path), joins(cluster, tmp_path)
        driver = Driver(tmp_path, **cluster.environment)
        process = driver.start("launch", str(study))
        driver.wait_for(finished=2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = driver.rows()
        assert state(driver)["state"] == "interrupted"
        process = driver.start("resume", "killed")
        os.kill(driver.wait_for_measurement(after=len(driver.measured())), signal.SIGKILL)
        joins(cluster, tmp_path)
        cluster.kill(0)
        ended(process)
    whole(driver, before)


@contextmanager
def node_without(folder: Path, cluster: Nodes) -> Iterator[None]:
    """A node that sees something else where a folder is."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root, to mount something over the folder for one node alone")
    ray = "from ray.scripts.scripts import main; main()"
    start = f"start --address={cluster.address} --num-cpus=1 --block"
    mount = f"mount -t tmpfs none {folder}"
    script = f"{mount} && exec {sys.executable} -c '{ray}' {start}"
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        env={**os.environ, **QUIET, "RAYDUCE_TEST_LOG": str(folder.parent / "measured.log")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.chaos
def test_results_of_a_node_without_the_shared_folder_travel(study: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with nodes() as cluster, node_without(tmp_path / "runs", cluster):
        driver = Driver(tmp_path, **cluster.environment)
        said = ended(driver.start("launch", str(study)))
    assert "does not see the results' folder" in said
    whole(driver, [])


# -- services ------------------------------------------------------------------------------------


@pytest.fixture
def database() -> Iterator[Postgres]:
    if binaries() is None:
        pytest.skip(WHY_NOT)
    with postgres() as server:
        yield server


def rows_of(driver: Driver, url: str) -> Callable[[], list[Any]]:
    """The journal's rows, in a database."""
    import optuna

    from search.journal.store import open_storage

    def rows() -> list[Any]:
        storage = open_storage(Store(driver.folder / "runs", "killed", url))
        try:
            return optuna.load_study(study_name="killed", storage=storage).get_trials()
        except KeyError:
            return []
        finally:
            storage.engine.dispose()

    return rows


@pytest.mark.chaos
def test_the_database_restarts_and_a_second_machine_is_refused(
    study: Path, tmp_path: Path, database: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database.create("journal")
    study.write_text(study.read_text() + f'[storage]\ndatabase = "{url}"\n')
    driver = Driver(tmp_path)
    monkeypatch.setattr(driver, "rows", rows_of(driver, url))
    process = driver.start("launch", str(study))
    for _ in range(1200):
        if sum(row.state.is_finished() for row in driver.rows()) >= 3:
            break
        time.sleep(0.1)
    (tmp_path / "other").mkdir()
    other = Driver(tmp_path / "other")
    refused = other.run("launch", str(study), code=2)
    assert f"study killed is running already: {driver_of(process)}" in refused
    before = driver.rows()
    database.stop()
    time.sleep(5)
    database.start()
    assert state(driver)["state"] == "running"
    ended(process)
    whole(driver, before, Store(tmp_path / "runs", "killed", url))


def driver_of(process: "subprocess.Popen[str]") -> str:
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()} pid {process.pid}"


@pytest.mark.chaos
def test_the_ledger_is_away_and_is_brought_up_to_date(study: Path, tmp_path: Path) -> None:
    driver = Driver(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    said = ended(driver.start("launch", str(study)))
    assert "the ledger does not answer, the search goes on" in said
    before = driver.rows()
    back = Driver(tmp_path)
    assert f"{BUDGET} trials" in back.run("sync", "killed").replace("and the baseline", "")
    back.run("sync", "killed")  # again, which changes nothing
    whole(back, before)


# -- disk ----------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.chaos
def test_a_disk_that_fills_up_is_told_and_with_room_all_goes_on(
    study: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "runs", "64m"):
        driver = Driver(tmp_path)
        process = driver.start("launch", str(study))
        driver.wait_for(finished=2)
        before, filler = driver.rows(), tmp_path / "runs" / "filler"
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"0" * 65536)
                file.flush()
        said, _ = process.communicate(timeout=400)
        assert "Traceback" not in said
        filler.unlink()
        if process.returncode:
            assert state(driver)["state"] == "interrupted"
            ended(driver.start("resume", "killed"))
        driver.run("sync", "killed")
        whole(driver, before)


@pytest.mark.chaos
def test_a_cache_of_torn_files_gives_the_same_results(study: Path, tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.run("launch", str(study), "--workers", "1")
    before = [row.values for row in driver.rows()]
    files = [path for path in (tmp_path / "runs" / "cache").rglob("*") if path.is_file()]
    torn = [path for path in files if path.stat().st_size]
    assert torn
    for path in torn:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.rmtree(tmp_path / "runs" / "killed")
    (tmp_path / "runs" / "mlflow.db").unlink()
    driver.run("launch", str(study), "--workers", "1")
    assert [row.values for row in driver.rows()] == before
    whole(driver, [])


# -- looked at before ----------------------------------------------------------------------------


@pytest.mark.chaos
def test_what_a_cluster_lacks_is_said_before_the_first_trial(study: Path, tmp_path: Path) -> None:
    with nodes() as cluster:
        cluster.add(2, gpus=1), cluster.add(2, gpus=1)
        driver = Driver(tmp_path, **cluster.environment)
        said = driver.run("launch", str(study), "--check")
        assert said.count("2 CPUs, 1 GPUs") == 2 and "ok  room: 4 trials at once" in said
        assert "ok  results' folder: seen by all nodes" in said and "ok  memory of a trial" in said
        assert "ok  versions: the same on all nodes" in said and "NO" not in said
        said = driver.run("launch", str(study), "--check", "--gpus", "1")
        assert "ok  room: 2 trials at once" in said
        assert "!!  node" in said and "0 cards found" in said  # which are made up here
        said = driver.run("launch", str(study), "--check", "--cpus", "3", code=1)
        assert "NO  room: no node can hold a trial" in said
    assert not (tmp_path / "runs" / "killed" / "study.db").exists()
