"""A routing study's table in the ledger."""

import json
from pathlib import Path

import pytest

from search.ledger.mirror import open_client, tracking_uri
from search.routing.evaluation import ORACLE, ROUTER
from search.routing.load import store_of
from search.routing.stages import Route
from tests.support.routing import invoke, write_study


def test_the_evaluation_is_one_run_in_the_ledger(
    whole: Route, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(made, tmp_path)
    monkeypatch.setattr("search.routing.record.git_commit", lambda: "0123abc")
    for _ in range(2):
        assert "ledger: run " in invoke("eval", file, whole)
    client = open_client(tracking_uri(store_of(whole.spec)))
    experiment = client.get_experiment_by_name("rayduce").experiment_id
    [run] = client.search_runs([experiment], "tags.study = 'tiny'")
    rows = json.loads((whole.root / "evaluation.json").read_text())["rows"]
    found = run.data.metrics
    assert found["router/accuracy"] == rows[ROUTER]["mean"]
    assert found["oracle/accuracy/sums"] == rows[ORACLE]["sums"]
    assert found["router/regret"] == rows[ROUTER]["regret"]
    assert found["speed/prefill_speedup"] > 0
    commits = {run.data.tags[name] for name in ("git_commit", "mlflow.source.git.commit")}
    assert commits == {"0123abc"}
    assert run.info.status == "FINISHED" and run.data.params["budget"] == "2"
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert kept == {"sets.csv", "router.json", "evaluation.json"}


def test_a_ledger_that_is_away_keeps_nobody_from_the_table(
    whole: Route, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = invoke("eval", write_study(made, tmp_path), whole)
    assert "the ledger does not answer" in told and "best static set:" in told
