"""The plug is pulled for real: a driver killed in the middle, and the same study resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from transformers import LlamaConfig, LlamaForCausalLM

from search.journal.store import Store, open_storage
from tests.support.families import GROUPED
from tests.support.toys import bytes_tokenizer

ROOT = Path(__file__).resolve().parent.parent.parent
BUDGET = 10
STUDY = """
name = "killed"
space = {{ name = "omission_wanda", max_skip = 2 }}
seed = 5
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
nonzero_parameters = "min"
[constraints]
perplexity = "<= 110% of baseline"
[metrics]
pause = "tests.support.slow_metric:pause"
[budget]
trials = {budget}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of a tiny model on random words, in a folder of its own."""
    LlamaForCausalLM(LlamaConfig(**GROUPED | {"vocab_size": 300})).save_pretrained(
        tmp_path / "model"
    )
    bytes_tokenizer().save_pretrained(tmp_path / "model")
    words = random.Random(0)
    lines = ["".join(words.choices("abcdefgh ", k=60)) for _ in range(40)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    file = tmp_path / "killed.toml"
    file.write_text(STUDY.format(folder=tmp_path, budget=BUDGET))
    return file


class Driver:
    """Runs `rayduce` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "measured.log"
        self.env = {
            **os.environ,
            "RAYDUCE_TEST_LOG": str(self.log),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "search",
            *arguments,
            "--storage",
            str(self.folder / "runs"),
        ]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def measured(self) -> list[tuple[str, str]]:
        """(lineage, worker's process) of each measurement so far."""
        lines = self.log.read_text().splitlines()
        return [(line.split()[0], line.split()[1]) for line in lines]

    def wait_for_measurement(self, after: int) -> int:
        """The process that makes the next measurement after so many."""
        for _ in range(1200):
            if len(found := self.measured()) > after:
                return int(found[-1][1])
            time.sleep(0.1)
        raise AssertionError(f"measurement {after + 1} never came")

    def rows(self) -> list[optuna.trial.FrozenTrial]:
        storage = open_storage(Store(self.folder / "runs", "killed"))
        try:
            return optuna.load_study(study_name="killed", storage=storage).get_trials()
        except KeyError:
            return []
        finally:
            storage.engine.dispose()

    def wait_for(self, finished: int) -> None:
        for _ in range(1200):
            if (self.folder / "runs/killed/study.db").exists():
                done = [row for row in self.rows() if row.state == TrialState.COMPLETE]
                if len(done) >= finished:
                    return
            time.sleep(0.1)
        raise AssertionError(f"{finished} trials never finished")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    yield Driver(tmp_path)


def parents(folder: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    return [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]


@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own
def test_driver_killed_then_resumed_with_a_worker_killed(study: Path, driver: Driver) -> None:
    process = driver.start("launch", str(study))
    driver.wait_for(finished=4)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {row.number: row for row in driver.rows()}
    told = {n for n, row in before.items() if row.state == TrialState.COMPLETE}
    measured = driver.measured()
    assert json.loads(driver.run("status", "killed", "--json"))["state"] == "interrupted"

    process = driver.start("resume", "killed")
    worker = driver.wait_for_measurement(after=len(measured) + 1)
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said

    after = {row.number: row for row in driver.rows()}
    assert sorted(after) == list(range(BUDGET + 1))  # the baseline and the budget, nothing else
    assert all(row.state == TrialState.COMPLETE for row in after.values())
    for number, row in before.items():
        assert after[number].params == row.params  # interrupted ones ran again as they were
    for number in told:
        assert after[number].values == before[number].values
        assert after[number].datetime_complete == before[number].datetime_complete
    done = {before[number].user_attrs["record"]["lineage"] for number in told}
    assert not done & {lineage for lineage, _ in driver.measured()[len(measured) :]}
    workers = {worker for _, worker in driver.measured()[len(measured) :]}
    assert len(workers) > 1  # another one took over

    status = json.loads(driver.run("status", "killed", "--json"))
    counts = {"finished": BUDGET, "failed": 0, "running": 0, "waiting": 0, "planned": BUDGET}
    assert status["trials"] == counts
    assert len(parents(driver.folder)) == 1
    best = json.loads(driver.run("best", "killed", "--json", "--top", "3"))
    assert best["baseline"]["number"] == 0
    assert all(trial["run_id"] for trial in best["trials"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_finished_study_searches_on_with_a_larger_budget(study: Path, driver: Driver) -> None:
    driver.run("launch", str(study), "--trials", "2")
    first = {row.number: row.values for row in driver.rows()}
    driver.run("launch", str(study), "--trials", "4")
    rows = {row.number: row.values for row in driver.rows()}
    assert sorted(rows) == [0, 1, 2, 3, 4]
    assert all(rows[number] == values for number, values in first.items())
    said = driver.run("launch", str(study), "--trials", "4")  # nothing left to do
    assert "starting Ray" not in said
