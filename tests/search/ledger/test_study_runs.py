"""From MLflow's pages to a model, on a machine that never saw the study's folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.journal.view import read
from search.ledger.mirror import open_client, sync
from search.ledger.run_fields import NOTE
from search.ledger.run_files import study_like
from search.ledger.run_ids import load_links, run_ids
from search.report.best import best, best_json
from tests.support.journals import Sample
from tests.support.ledgers import migrated_ledger
from trainables.core.errors import UserError


@pytest.fixture
def away(tiny: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the study's own machine says of it; then its folder is gone."""
    migrated_ledger(tiny.store.ledger)
    sync(tiny.store)
    view = read(tiny.store)
    told = best_json(view, best(view), run_ids(tiny.store))
    uri = f"sqlite:///{tiny.store.ledger}"
    parent = load_links(tiny.store)["parent"]
    shutil.rmtree(tiny.store.root)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return {"best": told, "uri": uri, "parent": parent, "study": view.study}


def says(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("by", ["name", "run"])
def test_best_is_told_as_where_the_study_lies(away: dict[str, Any], by: str) -> None:
    name = "tiny" if by == "name" else away["parent"]
    told = says("best", name, "--mlflow", away["uri"], "--json")
    assert json.loads(told) == away["best"]
    first = away["best"]["trials"][0]
    table = says("best", name, "--mlflow", away["uri"])
    line = f"rayduce export {first['run_id']} --to DIR --mlflow {away['uri']}"
    assert f"trial {first['number']}: {line}" in table


def test_limits_and_the_number_asked_for_count(away: dict[str, Any]) -> None:
    asked = ["--top", "1", "--where", "nonzero_parameters <= 99% of baseline", "--json"]
    (only,) = json.loads(says("best", "tiny", "--mlflow", away["uri"], *asked))["trials"]
    assert only == away["best"]["trials"][0]


def test_what_the_ledger_does_not_hold_is_one_message(away: dict[str, Any]) -> None:
    with pytest.raises(UserError, match='no such study in the ledger: got "tidy"; allowed: tiny'):
        says("best", "tidy", "--mlflow", away["uri"])
    with pytest.raises(UserError, match='--mlflow: got "head:5000"; allowed: a URL'):
        says("best", "tiny", "--mlflow", "head:5000")
    with pytest.raises(UserError, match=r"no ledger in .*--mlflow"):
        says("best", "tiny", "--mlflow", f"sqlite:///{Path('runs/mlflow.db').absolute()}")


def test_two_studies_of_one_name_are_told_apart_by_their_runs(away: dict[str, Any]) -> None:
    client = open_client(away["uri"])
    experiment = client.get_experiment_by_name("rayduce")
    assert experiment is not None
    tags = {"study": "tiny", "rayduce.study": "another", "state": "finished"}
    other = client.create_run(experiment.experiment_id, tags=tags).info.run_id
    with pytest.raises(UserError, match="several studies have this name") as caught:
        says("best", "tiny", "--mlflow", away["uri"])
    assert away["parent"] in str(caught.value) and other in str(caught.value)
    told = says("best", away["parent"], "--mlflow", away["uri"], "--json")
    assert json.loads(told) == away["best"]


def test_a_search_like_a_run_begins_with_its_point(
    away: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []
    monkeypatch.setattr("search.run.run", lambda study, **_: launched.append(study))
    run = away["best"]["trials"][0]["run_id"]
    says("launch", "--like", run, "--mlflow", away["uri"], "--trials", "5")
    (study,) = launched
    assert study.name == f"tiny-like-{run[:8]}" and study.budget.trials == 5
    assert study.first == ({"omission.skip": [2], "wanda.percent": 20},)
    assert study.storage.folder == str(tmp_path / "elsewhere" / "runs")
    same = ("model", "data", "objectives", "constraints", "space", "seed", "sampler")
    before = away["study"]
    assert [getattr(study, n) for n in same] == [getattr(before, n) for n in same]
    for wrong in (["--like", "tiny"], [], ["study.toml", "--like", run]):
        with pytest.raises(UserError, match=r"RUN_ID|a run's id"):
            says("launch", *wrong)


def test_a_search_like_the_untouched_model_has_no_point(tiny: Sample, tmp_path: Path) -> None:
    migrated_ledger(tiny.store.ledger)
    sync(tiny.store)
    study = study_like(tiny.store, run_ids(tiny.store)[0], {}, name="anew")
    assert study.first == () and study.name == "anew"


def test_every_run_says_the_line_to_type(tiny: Sample) -> None:
    migrated_ledger(tiny.store.ledger)
    sync(tiny.store)
    links, client = load_links(tiny.store), open_client(f"sqlite:///{tiny.store.ledger}")

    def note(run: str) -> str:
        return str(client.get_run(run).data.tags[NOTE])

    place = f"--storage {tiny.store.folder}"
    for number, run in run_ids(tiny.store).items():
        made = f"rayduce export {run} --to DIR {place}"
        assert (made in note(run)) == (number != 3), note(run)  # which failed
        assert f"rayduce launch --like {run} {place}" in note(run)
    best_run = run_ids(tiny.store)[best(read(tiny.store)).trials[0].number]
    told = note(links["parent"])
    assert f"rayduce export {best_run} --to DIR {place}" in told
    assert f"rayduce best tiny {place}" in told
