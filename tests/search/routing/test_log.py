"""A routing study in the ledger and before the verbs that read any study."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.journal.view import read
from search.ledger.mirror import open_client, sync, tracking_uri
from search.routing.evaluation import KEPT, ORACLE
from search.routing.stages import Route
from tests.support.routing import ran, runs_of, study
from trainables.core.errors import UserError


def test_every_search_router_and_way_is_one_run_below_the_studys_own(whole: Route) -> None:
    sync(whole.log.store)
    found = runs_of(whole.log.store)
    parent = found.pop("tiny")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parts = [run.data.tags.get("part", "") for run in found.values()]
    assert {part: parts.count(part) for part in parts} == {
        "": 7,
        "sets": 4,
        "routers-2": 2,
        "marks": 5,
    }
    rows = json.loads((whole.root / "evaluation.json").read_text())["budgets"]["2"]["rows"]
    [kept] = [run for name, run in found.items() if KEPT in name]
    assert kept.data.metrics["accuracy"] == rows[KEPT]["accuracy"]
    assert kept.data.metrics["against/static/low"] == rows[KEPT]["against/static/low"]
    assert kept.data.metrics["speed/prefill"] > 0
    [oracle] = [run for name, run in found.items() if ORACLE in name]
    assert oracle.data.metrics["accuracy/sums"] == rows[ORACLE]["accuracy/sums"]
    [router] = [run for name, run in found.items() if name.startswith("routers-2 001")]
    assert {"rmse", "mae", "regret", "accuracy", "train_loss"} <= set(router.data.metrics)
    client = open_client(tracking_uri(whole.log.store))
    searched = next(run for name, run in found.items() if name.startswith("sets 000"))
    steps = client.get_metric_history(searched.info.run_id, "loss")
    assert [one.step for one in steps] == [0, 1]
    kinds = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"sets.csv", "router.parquet", "all_log.csv", "evaluation.json", "sets.svg"} <= kinds


def test_the_verbs_know_it(whole: Route, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    place = ["--storage", str(whole.root.parent)]

    def said(*command: str) -> str:
        found = CliRunner().invoke(app, [*command, *place])
        assert found.exit_code == 0, found.output
        return str(found.output)

    assert "tiny: finished" in said("status") and "routers-2: 2 of 2 done" in said("status", "tiny")
    told = said("best", "tiny")
    assert "router with fallback" in told and "where prompts go" in told
    tables = json.loads(said("best", "tiny", "--json"))["tables"]
    assert [len(one["rows"]) for one in tables] == [12, 3]
    said("report", "tiny", "--to", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "oracle over sets" in page and "12 questions to learn from, 6 held out" in page
    told = said("status", "tiny", "--explain")
    assert "unseen by routers, 5 held out" in told and "unknown" not in told
    assert "router with fallback" in said("resume", "tiny")
    assert "0 of them new" in said("sync", "tiny")


@pytest.mark.slow
def test_other_settings_start_afresh_under_the_same_name(made: Path, tmp_path: Path) -> None:
    spec = study(made, tmp_path)
    before = ran(spec)
    token = read(before.log.store).notes["token"]
    assert read(ran(spec).log.store).notes["token"] == token
    other = spec.model_copy(update={"sets": spec.sets.model_copy(update={"budget": (1, 2)})})
    after = read(ran(other).log.store)
    assert after.notes["token"] != token
    assert after.state == "finished" and len(after.trials) == 12
    assert {one.part for one in after.parts} == {"sets", "routers-1", "routers-2", "marks"}


def test_a_study_of_another_kind_keeps_its_name(made: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    text = (Path("spaces/studies/smoke.toml")).read_text().replace('"smoke"', '"tiny"')
    (tmp_path / "tiny" / "study.toml").write_text(text)
    with pytest.raises(UserError, match="rename one"):
        ran(study(made, tmp_path))


def test_a_ledger_that_is_away_keeps_nobody_from_the_table(
    whole: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert ran(whole.spec).evaluation["budgets"] == whole.evaluation["budgets"]
