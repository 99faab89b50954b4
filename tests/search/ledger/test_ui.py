"""Where the pages are, and what keeps them from opening."""

import socket
import sys
from pathlib import Path

import pytest

from search.journal.store import Store
from search.ledger import ui
from search.ledger.mirror import embedded
from search.ledger.run_ids import save_links
from tests.support.journals import Sample
from trainables.core.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Sample(tmp_path)
    made.close()
    uri = embedded(made.store)
    save_links(made.store, {"uri": uri, "experiment": "1", "parent": "abc", "runs": {}})
    return made.store


def test_links_to_every_study_of_this_ledger(store: Store) -> None:
    server = "http://127.0.0.1:5000"
    assert ui.links(store, server, embedded(store)) == [
        "  depth",
        f"    trials: {server}/#/experiments/1/runs"
        "?viewStateShareKey=depth&workflowType=machine_learning",
        f"    front:  {server}/#/experiments/1/runs/abc/artifacts/front.html"
        "?workflowType=machine_learning",
    ]
    assert ui.links(store, server, "sqlite:///another.db") == []


def test_a_server_in_use_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ledger:5000")
    ui.serve(str(store.folder))
    assert "names the server in use: http://ledger:5000" in capsys.readouterr().out


def test_no_password_of_a_server_in_use_is_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = "http://me@ledger:5000"
    save_links(store, {"uri": server, "experiment": "1", "parent": "abc", "runs": {}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@ledger:5000")
    ui.serve(str(store.folder))
    told = capsys.readouterr().out
    assert f"in use: {server}" in told and f"{server}/#/experiments/1" in told
    assert "s3cret" not in told


def test_no_ledger_yet(store: Store) -> None:
    with pytest.raises(UserError, match=r"no ledger in .* yet; launch a study first"):
        ui.serve(str(store.folder))


def test_a_port_that_is_taken(store: Store) -> None:
    store.ledger.touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be used: .*--port"):
            ui.serve(str(store.folder), port=port)


def test_a_server_that_dies_says_why(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.ledger.touch()
    dead = [sys.executable, "-c", "raise SystemExit('no such option')"]
    monkeypatch.setattr(ui, "command", lambda *_: dead)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="did not start: no such option"):
        ui.serve(str(store.folder), port=port)


def test_it_listens_on_this_machine_only(store: Store) -> None:
    line = " ".join(ui.command(store, 5001))
    assert "--host 127.0.0.1 --port 5001" in line
    assert "sqlite" not in line  # where a password could be seen by everybody on the machine
