"""The tracking server by its own scripts: PostgreSQL, passwords, artifacts through it, a backup."""

import configparser
import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from search.export import export_run
from search.journal.store import Store
from search.journal.view import read
from search.ledger.mirror import sync
from search.ledger.run_ids import run_ids
from search.ledger.study_runs import read_study
from search.report.best import best, best_json
from tests.support.journals import Sample
from tests.support.postgres import WHY_NOT, Postgres, binaries, postgres
from trainables.core.errors import UserError
from trainables.core.places import CHECKOUT

SCRIPTS = CHECKOUT / "mlflow"
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def run(script: str, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    programs = f"{CHECKOUT}/.venv/bin:{binaries()}:{os.environ['PATH']}"
    return subprocess.run(
        [str(SCRIPTS / script), *map(str, arguments)],
        env={**os.environ, "PATH": programs, **environment},
        capture_output=True,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_setup_makes_passwords_that_only_the_owner_reads(tmp_path: Path) -> None:
    done = run("setup.sh", tmp_path / "here", "head")
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "here" / "server.env").read_text()
    auth = configparser.ConfigParser()
    auth.read(tmp_path / "here" / "auth.ini")
    password = auth["mlflow"]["admin_password"]
    assert len(password) == 48 and password not in done.stdout + settings
    assert f"AUTH_CONFIG={tmp_path}/here/auth.ini" in settings and "head:5000" in settings
    for file in ("server.env", "auth.ini"):
        assert (tmp_path / "here" / file).stat().st_mode & 0o077 == 0
    again = run("setup.sh", tmp_path / "here")
    assert again.returncode == 2 and "settings already" in again.stderr
    other = run("setup.sh", tmp_path / "there")
    assert other.returncode == 0 and password not in (tmp_path / "there" / "auth.ini").read_text()


def test_with_docker_it_is_the_same_script_and_the_database_is_not_published() -> None:
    services = yaml.safe_load((SCRIPTS / "compose.yaml").read_text())["services"]
    assert set(services) == {"postgres", "mlflow"} and "ports" not in services["postgres"]
    assert services["mlflow"]["ports"] == ["${MLFLOW_PUBLISH:-127.0.0.1}:5000:5000"]
    assert "exec bash /scripts/server.sh" in services["mlflow"]["command"][-1]


def test_sqlite_files_are_backed_up_while_somebody_writes_and_brought_back(tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert run("setup.sh", here).returncode == 0
    settings, lost = here / "server.env", tmp_path / "lost"
    known = settings.read_text().splitlines()
    lines = [line for line in known if not line.startswith("BACKEND_STORE_URI=")]
    settings.write_text("\n".join([*lines, f"BACKEND_STORE_URI=sqlite:///{here}/runs.db"]) + "\n")
    users = "".join(re.findall(r"database_uri *= *sqlite:///(.+)", (here / "auth.ini").read_text()))
    none = run("backup.sh", settings, tmp_path / "none")
    assert none.returncode == 2 and f"there is no {here}/runs.db" in none.stderr
    for file in (here / "runs.db", Path(users)):
        writer = sqlite3.connect(file)
        writer.execute("pragma journal_mode = wal")
        writer.executescript("create table told (what); insert into told values ('kept')")
        writer.execute("insert into told values ('not yet')")  # in a transaction that is open
        done = run("backup.sh", settings, tmp_path / file.name)
        assert done.returncode == 0, done.stderr
        writer.close()
        for part in (*here.glob("runs.db*"), *Path(users).parent.glob(f"{Path(users).name}*")):
            lost.mkdir(exist_ok=True)
            part.rename(lost / part.name)
        assert run("restore.sh", settings, tmp_path / file.name).returncode == 0
        with contextlib.closing(sqlite3.connect(file)) as again:
            assert again.execute("select what from told").fetchall() == [("kept",)]


@contextmanager
def served(settings: Path, port: int) -> Iterator[str]:
    """The server, while open."""
    log = settings.parent / "log"
    with log.open("w") as file:
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            [str(SCRIPTS / "server.sh"), str(settings)],
            env={**os.environ, "PATH": programs, "WORKERS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        for _ in range(1800):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture
def database() -> Iterator[Postgres]:
    if binaries() is None:
        pytest.skip(WHY_NOT)
    with postgres() as server:
        yield server


@pytest.mark.chaos
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_study_is_kept_backed_up_and_restored(
    tiny: Sample,
    tmp_path: Path,
    database: Postgres,
    unproven: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, here = free_port(), tmp_path / "here"
    uri = database.create("mlflow").replace("postgresql:", "postgresql+psycopg:")
    place = {"BACKEND_STORE_URI": uri, "HOST": "127.0.0.1", "PORT": str(port)}
    assert run("setup.sh", here, **place).returncode == 0
    auth = configparser.ConfigParser()
    auth.read(here / "auth.ini")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with served(here / "server.env", port) as address:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/api/2.0/mlflow/experiments/search?max_results=1")
        with pytest.raises(UserError, match="no answer from the ledger"):
            sync(tiny.store)  # nobody has said who he is
        for name, value in zip(SECRETS, ("admin", auth["mlflow"]["admin_password"]), strict=True):
            monkeypatch.setenv(name, value)
        assert "4 of them new" in sync(tiny.store)
        view, runs = read(tiny.store), run_ids(tiny.store)
        kept = run("backup.sh", here / "server.env", tmp_path / "backup")
        assert kept.returncode == 0, kept.stderr
    told = best_json(view, best(view), runs)
    shutil.rmtree(tiny.store.root)
    shutil.rmtree(here / "artifacts")
    (here / "auth.db").unlink()
    anew = database.create("anew").replace("postgresql:", "postgresql+psycopg:")
    settings = (here / "server.env").read_text().replace(uri, anew)
    (here / "server.env").write_text(settings)
    restored = run("restore.sh", here / "server.env", tmp_path / "backup")
    assert restored.returncode == 0, restored.stderr
    assert run("restore.sh", here / "server.env", tmp_path / "backup").returncode == 2
    elsewhere = Store(tmp_path / "elsewhere", "tiny")
    with served(here / "server.env", port):
        study = read_study(elsewhere)
        assert best_json(study.view, study.whole(best(study.view)), study.runs) == told
        said = export_run(elsewhere, runs[1], tmp_path / "out", as_searched=True, name="tiny")
    assert "note:" not in said and "models:/tiny@champion" in said
    assert (tmp_path / "out" / "config.json").is_file()
