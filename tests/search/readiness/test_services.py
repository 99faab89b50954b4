"""What is said of the ledger, the journal and the disk before the first trial."""

from pathlib import Path

import pytest

from search.journal.store import Store
from search.readiness import services
from search.readiness.finding import Finding
from tests.support.ledgers import migrated_ledger


def said(store: Store) -> dict[str, Finding]:
    return {one.what: one for one in services.judge(store)}


def test_files_beside_the_studies_need_no_server(tmp_path: Path) -> None:
    found = said(Store(tmp_path, "depth"))
    assert [one.level for one in found.values()] == ["ok"] * 3
    assert str(tmp_path) in found["MLflow"].said and str(tmp_path) in found["journal"].said


def test_servers_that_do_not_answer_are_said_without_their_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = said(Store(tmp_path, "depth", "postgresql://me:s3cret@127.0.0.1:9/name"))
    assert (found["MLflow"].level, found["journal"].level) == ("warning", "missing")
    assert "http://127.0.0.1:9" in found["MLflow"].line()
    assert "postgresql://me@127.0.0.1:9/name" in found["journal"].line()
    assert "s3cret" not in "".join(one.line() for one in found.values())


def test_a_ledger_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migrated_ledger(tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert said(Store(tmp_path, "depth"))["MLflow"].said.startswith("answers at sqlite")


def test_a_folder_on_the_network_is_not_for_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "network_file_system", lambda path: "nfs4")
    found = said(Store(tmp_path, "depth"))["journal"]
    assert found.level == "warning" and "SQLite on nfs4" in found.said


def test_only_paths_have_to_be_seen_by_the_nodes() -> None:
    assert services.local_paths("/data/model", "asset:imdb", "org/name", None) == ("/data/model",)
