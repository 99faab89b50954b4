"""What the first version left behind is still good: its studies resume, its folders load.

`tests/fixtures/v0` was written by commit 7087057: a finished study, one whose driver was killed,
an export, a routed model, the exact form of uneven layers. `{here}` stands for the folder's place.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainables.core.places import CHECKOUT

FIXTURE = CHECKOUT / "tests" / "fixtures" / "v0"
NOTES = ("study_user_attributes", "trial_user_attributes")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A copy, with its own place written into it."""
    copy = tmp_path / "v0"
    shutil.copytree(FIXTURE, copy)
    for path in (p for p in copy.rglob("*") if p.suffix in (".toml", ".json", ".md")):
        path.write_text(path.read_text().replace("{here}", str(copy)))
    for path in copy.glob("runs/*/study.db"):
        with sqlite3.connect(path) as database:
            for table in NOTES:
                change = f"update {table} set value_json = replace(value_json, '{{here}}', ?)"
                database.execute(change, (str(copy),))
        database.close()
    return copy


def rayduce(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "search", *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def trials(here: Path, study: str) -> list[dict[str, Any]]:
    """The journal's rows: state and parameters."""
    import optuna

    url = f"sqlite:///{here}/runs/{study}/study.db"
    rows = optuna.load_study(study_name=study, storage=url).trials
    return [{"state": row.state.name, "params": row.params, "values": row.values} for row in rows]


@pytest.mark.slow
def test_a_finished_study_goes_on(here: Path) -> None:
    before = trials(here, "old")
    rayduce("resume", "old", "--trials", "6", "--storage", here / "runs")
    after = trials(here, "old")
    assert after[: len(before)] == before
    assert [row["state"] for row in after] == ["COMPLETE"] * 7
    told = json.loads(rayduce("status", "old", "--storage", here / "runs", "--json"))
    assert told["state"] == "finished" and told["trials"]["finished"] == 6


@pytest.mark.long
def test_a_killed_study_goes_on_under_the_same_numbers(here: Path) -> None:
    before = trials(here, "switch")
    assert before[4]["state"] == "RUNNING"
    rayduce("resume", "switch", "--trials", "5", "--storage", here / "runs")
    after = trials(here, "switch")
    assert after[:4] == before[:4] and after[4]["params"] == before[4]["params"]
    assert [row["state"] for row in after] == ["COMPLETE"] * 6


@pytest.mark.long
def test_an_old_trial_exports_as_it_did(here: Path, tmp_path: Path) -> None:
    rayduce("export", "old", "--trial", "4", "--to", tmp_path / "again", "--storage", here / "runs")
    found = [
        json.loads((folder / "compression.json").read_text())["metrics"]
        for folder in (here / "export", tmp_path / "again")
    ]
    assert found[0]["held_out"] == pytest.approx(found[1]["held_out"], rel=1e-6)
    assert torch.equal(said(here / "export"), said(tmp_path / "again"))


def test_old_studies_are_read(here: Path) -> None:
    best = json.loads(rayduce("best", "old", "--storage", here / "runs", "--json"))
    assert best["trials"][0]["number"] == 4
    assert "Wanda" in rayduce("table", "old", "--storage", here / "runs")
    rayduce("report", "old", "--storage", here / "runs", "--to", here / "report.html")
    assert "Omission skip=2,3" in (here / "report.html").read_text()


@pytest.mark.long
def test_old_studies_are_confirmed(here: Path) -> None:
    told = json.loads(rayduce("confirm", "old", "--storage", here / "runs", "--json"))
    then = json.loads((here / "export" / "compression.json").read_text())["metrics"]
    (one,) = [trial["held_out"] for trial in told["trials"] if trial["number"] == 4]
    assert one["metrics"] == pytest.approx(then["held_out"], rel=1e-6)
    assert told["baseline"]["held_out"]["metrics"] == pytest.approx(
        then["baseline_held_out"], rel=1e-6
    )


@torch.no_grad()
def said(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found: torch.Tensor = model(input_ids=torch.arange(3, 13)[None]).logits
    return found


@torch.no_grad()
def test_old_uneven_folders_load_by_the_line_they_print(here: Path) -> None:
    from trainables.bench.uneven import load_exact

    model = load_exact(here / "uneven")
    whole = AutoModelForCausalLM.from_pretrained(here / "model").eval()
    feed = whole.model.layers[1].mlp
    feed.down_proj.weight[:, 40:] = 0
    found = model(input_ids=torch.arange(3, 13)[None]).logits
    assert torch.allclose(found, said_by(whole), atol=1e-5)
    assert model.model.layers[1].mlp.down_proj.weight.shape == (32, 40)


def said_by(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.arange(3, 13)[None]).logits
    return found


def test_old_routed_folders_load_by_the_line_they_print(here: Path) -> None:
    from trainables.routed import RoutedModel

    model = RoutedModel.load(here / "routed")
    assert model.route(["a b c", "dead beef"]) == [0, 1]
    assert len(model.generate(["a b c"], max_new_tokens=4)) == 1
