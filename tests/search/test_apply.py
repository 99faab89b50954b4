"""Stages are data: what compressed one model compresses another, without its study."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.apply import _stages, apply_file
from search.cli import app
from search.export import export_trial
from search.journal.results import Result
from search.journal.view import View
from search.report.provenance import compression, trial_toml
from tests.methods import METHODS
from tests.support.journals import Sample, record, sample_study
from tests.support.searched import save_llama
from trainables.core.errors import UserError
from trainables.load import load
from trainables.recover import Recover
from trainables.similarity.iterative import Iterate
from trainables.similarity.method import SimilarityPerSample
from trainables.stage import Stage

STAGES: list[Stage] = [
    *(method for method, *_ in METHODS),
    Recover(epochs=2, lr=1e-3, freeze="part", patience=1, watch="accuracy"),
    Iterate(SimilarityPerSample(99.0, k=2), Recover(epochs=1), passes=2, max_k=4),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_every_stage_comes_back_from_a_trials_files(stage: Stage, tmp_path: Path) -> None:
    done = {
        "stage": type(stage).__name__,
        "settings": stage.settings(),
        "spec": stage.to_dict(),
        "effects": [],
        "counts": {},
        "seconds": 0.5,
    }
    view = View(sample_study(), ())
    result = Result(1, "complete", {}, {}, {}, record("", 1, {}, [done]))
    told = json.loads(json.dumps(compression(view, result)))
    assert _stages(told["stages"], tmp_path) == [stage]
    told = tomllib.loads(trial_toml(view, result))
    assert _stages(told["stages"], tmp_path) == [stage]


@pytest.fixture
def exported(tiny: Sample, tmp_path: Path, unproven: list[str]) -> Path:
    """Trial 1: block 2 is skipped, then 20 percent of each row are zero."""
    export_trial(tiny.store, tmp_path / "exported", trial=1)
    return tmp_path / "exported"


def test_another_model_is_compressed_the_same_way(exported: Path, tmp_path: Path) -> None:
    save_llama(tmp_path / "deeper", 6)
    place = {"model": str(tmp_path / "deeper"), "folder": tmp_path / "shared"}
    told = apply_file(exported / "compression.json", tmp_path / "one", **place)
    apply_file(exported / "trial.toml", tmp_path / "two", **place)
    model = load(tmp_path / "one")
    assert model.config.num_hidden_layers == 5
    assert float((model.model.layers[0].mlp.up_proj.weight == 0).float().mean()) == 6 / 32
    assert "untouched" in told and "on search items" in told and "note:" not in told
    one, two = (json.loads((tmp_path / n / "compression.json").read_text()) for n in ("one", "two"))
    assert one["lineage"] == two["lineage"]
    assert one["stages"][0]["spec"] == two["stages"][0]["spec"]
    assert one["model"]["id"] == str(tmp_path / "deeper")
    assert one["rebuild"] == (
        f"rayduce apply compression.json --model {tmp_path / 'deeper'} --to DIR"
    )
    card = (tmp_path / "one" / "README.md").read_text()
    assert "deeper made smaller: Omission skip=2 > Wanda sparsity=0.2" in card
    assert "rayduce apply compression.json" in card and "The last one is on search items." in card
    apply_file(exported / "trial.toml", tmp_path / "four", folder=tmp_path / "shared")  # its model
    made = json.loads((tmp_path / "four" / "compression.json").read_text())
    assert made["lineage"] == json.loads((exported / "compression.json").read_text())["lineage"]
    again = apply_file(tmp_path / "one", tmp_path / "three", **place)  # a folder will do
    assert again.splitlines()[1:3] == told.splitlines()[1:3]


def test_other_data_is_looked_at_where_it_is_named(exported: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{i} sheep and {i} goats"} for i in range(60)]
    (tmp_path / "sheep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runner = CliRunner()
    files = ["apply", str(exported), "--model", str(tmp_path.parent / "no")]
    told = runner.invoke(app, [*files, "--to", str(tmp_path / "out")])
    assert isinstance(told.exception, UserError) and "model.id: no such path" in str(told.exception)
    model = json.loads((exported / "compression.json").read_text())["model"]["id"]
    data = ["--dataset", str(tmp_path / "sheep.jsonl"), "--storage", str(tmp_path / "shared")]
    command = ["apply", str(exported), "--model", model, "--to", str(tmp_path / "out"), *data]
    told = runner.invoke(app, command)
    assert told.exit_code == 0, told.output
    made = json.loads((tmp_path / "out" / "compression.json").read_text())
    before = json.loads((exported / "compression.json").read_text())
    assert made["data"] == before["data"] | {"dataset": str(tmp_path / "sheep.jsonl")}
    assert made["fingerprints"]["held_out"] != before["fingerprints"]["held_out"]


def test_what_cannot_be_applied_is_one_message(exported: Path, tmp_path: Path) -> None:
    save_llama(tmp_path / "shallow", 2)
    model = str(tmp_path / "shallow")
    with pytest.raises(UserError, match="2"):  # there is no block 2
        apply_file(exported, tmp_path / "out", model=model, folder=tmp_path / "shared")
    with pytest.raises(UserError, match="perplexity"):
        apply_file(exported, tmp_path / "out", model=model, task="classification")
    with pytest.raises(UserError, match=r"cannot read .*gone"):
        apply_file(tmp_path / "gone.json", tmp_path / "out", model=model)
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*torn"):
        apply_file(tmp_path / "torn.json", tmp_path / "out", model=model)
    told = json.loads((exported / "compression.json").read_text())
    del told["objectives"]
    (tmp_path / "old.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"old\.json: no objectives; allowed: study, model"):
        apply_file(tmp_path / "old.json", tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()


def test_stages_of_another_version_are_refused(exported: Path, tmp_path: Path) -> None:
    told = json.loads((exported / "compression.json").read_text())
    told["stages"][0]["spec"]["version"] = 99
    (tmp_path / "new.json").write_text(json.dumps(told))
    model = told["model"]["id"]
    with pytest.raises(UserError, match="version of its fields: got 99; allowed: 1"):
        apply_file(tmp_path / "new.json", tmp_path / "out", model=model)
