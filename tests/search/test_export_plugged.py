"""A trial with a plugged layer becomes one folder, whose card says whose layer it is."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from search.journal.results import Result
from search.journal.view import View
from search.rebuild import Plan, free, make
from search.study.load import parse_study
from tests.support.plugged import donor, encoder, texts
from trainables.ilm import ILM, Selection
from trainables.load import load
from trainables.plugin import PlugIn
from trainables.recover import Recover

STUDY = """
name = "plugged"
space = {{ name = "plugin", donors = ["{place}/donor"] }}
[model]
id = "{place}/encoder"
[data]
dataset = "{place}/rows.jsonl"
task = "classification"
max_length = 16
batch_size = 8
items = {{ calibration = 40, train = 40, search = 20, held_out = 20 }}
[objectives]
accuracy = "max"
parameters = "min"
[budget]
trials = 3
"""


@pytest.mark.long
@pytest.mark.parametrize("licence", ["apache-2.0", ""])
def test_a_plugged_model_is_one_folder(
    licence: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not licence:
        request.getfixturevalue("unproven")  # a fresh process is asked once
    donor(tmp_path / "donor", "qwen2")
    if licence:
        (tmp_path / "donor" / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    encoder(tmp_path / "encoder")
    texts(tmp_path / "rows.jsonl")
    study = parse_study(STUDY.format(place=tmp_path), "plugged.toml")
    look = ILM(str(tmp_path / "donor"), n_pcs=4, top_pc=2, n_samples=40, draws=20)
    training = Recover(epochs=2, lr=2e-3, batch_size=8, best="accuracy")
    stages = [PlugIn(str(tmp_path / "donor"), choose=look, training=training)]
    view = View(study, ())
    plan = Plan(
        view,
        Result(1, "complete", {}, {}, {}, {"stages": []}),
        stages,
        tmp_path / "cache",
        "again",
        searched=False,
    )
    report = make(plan, free(tmp_path / "out"), lambda text: None)
    card = (tmp_path / "out" / "README.md").read_text()
    told = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert "Needs Rayduce beside transformers" in report and "trainables.load" in card
    (step,) = told["stages"]
    number = step["details"]["selection"]["best_llm_layer"]
    assert f"layer {number} (from 0 on) of donor" in card
    assert f"donor: {licence}" in card if licence else "donor: unknown" in card
    assert str(tmp_path) not in card.split("## Make it again")[0]
    Selection.from_dict(step["details"]["selection"])
    model = load(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("a good film", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 2)
