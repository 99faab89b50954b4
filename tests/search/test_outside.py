"""A method is two files and a line: one that comes from outside the packages, with a picture, a
space and a metric of its own, is searched, shown, exported and held to the contract."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from tests.support.families import GROUPED
from tests.support.launches import tiny_study
from trainables.core.places import CHECKOUT

METHOD = '''
"""Scales the output of the last FFNs."""
from dataclasses import dataclass
from trainables.bench.models.structure import blocks, family, reach
from trainables.core.fork import put
from trainables.core.lineage import Effect
from trainables.core.pictures import Bars
from trainables.stage import Method, Summary

@dataclass(frozen=True)
class Quietened(Effect):
    share: float

@dataclass(frozen=True)
class Quieten(Method):
    share: float = 0.5

    def __post_init__(self):
        self.require("share", 0 < self.share <= 1, "0 < share <= 1")

    def apply(self, model, stats):
        sizes = []
        for block in blocks(model):
            linear = reach(block, family(model).contract)
            put(linear, "weight", linear.weight.detach() * self.share)
            sizes.append(float(linear.weight.detach().norm()))
        picture = Bars("how loud each block is", sizes, (0,), "norm", "block")
        return Summary((Quietened(self.share),), {"quietened": len(sizes)}, pictures=(picture,))
'''
SPACE = '''
"""How much to quieten, and how it is judged."""
from my_method import Quieten
from spaces.space import Space

class MySpace(Space):
    high: int = 90

    def stages(self, trial, facts):
        return [Quieten(trial.suggest_int("quieten.percent", 10, self.high, step=10) / 100)]

def loudness(made):
    return float(sum(parameter.norm() for parameter in made.model.parameters()))
'''
STUDY = """
name = "outside"
space = {{ name = "my_space:MySpace", high = 50 }}
seed = 3
[model]
id = "{folder}/model"
[data]
dataset = "{folder}/text.txt"
task = "language-modelling"
max_length = 16
batch_size = 2
items = {{ calibration = 2, train = 2, search = 2, held_out = 2 }}
[objectives]
perplexity = "min"
loudness = "min"
[metrics]
loudness = "my_space:loudness"
[budget]
trials = 3
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder: a method, a space and a metric, a model and a text."""
    tiny_study(tmp_path, STUDY)
    (tmp_path / "my_method.py").write_text(METHOD)
    (tmp_path / "my_space.py").write_text(SPACE)
    return tmp_path


def run(here: Path, *arguments: str) -> str:
    """A command in the user's folder, as installed."""
    done = subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs_of(here: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    found = client.get_experiment_by_name("rayduce")
    assert found is not None
    return [
        (one, {file.path for file in client.list_artifacts(one.info.run_id)})
        for one in client.search_runs([found.experiment_id])
    ]


@pytest.mark.long
def test_a_method_from_outside_is_searched_shown_and_exported(here: Path) -> None:
    run(here, "launch", "killed.toml", "--workers", "1")
    trials = [(one, files) for one, files in runs_of(here) if "Quieten.share" in one.data.params]
    assert len(trials) == 3
    for one, files in trials:
        percent = int(one.data.params["quieten.percent"])
        assert float(one.data.params["Quieten.share"]) == percent / 100 <= 0.5
        assert one.data.metrics["loudness"] > 0 and "pictures.svg" in files
    run(here, "report", "outside", "--to", "report.html")
    assert "how loud each block is" in (here / "report.html").read_text()
    run(here, "export", "outside", "--best", "loudness", "--to", "smaller")
    again = LlamaForCausalLM.from_pretrained(here / "smaller")
    assert again.config.num_hidden_layers == GROUPED["num_hidden_layers"]


def test_the_contract_holds_it(here: Path) -> None:
    code = (
        "import torch; from my_method import Quieten\n"
        "from transformers import AutoModelForCausalLM\n"
        "from trainables.testing import check_method\n"
        "model = AutoModelForCausalLM.from_pretrained('model').eval()\n"
        "batches = [{'input_ids': torch.randint(0, 300, (2, 8))}]\n"
        "check_method(Quieten(0.5), model, batches, others=[Quieten(0.25)], bad=[{'share': 2.0}])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{here}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
