"""Studies of a tiny model, launched by the real command line in a process of its own."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import optuna
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


def tiny_study(folder: Path, text: str = STUDY, budget: int = BUDGET) -> Path:
    """The file of a study of a tiny model on random words, all in one folder."""
    LlamaForCausalLM(LlamaConfig(**GROUPED | {"vocab_size": 300})).save_pretrained(folder / "model")
    bytes_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    lines = ["".join(words.choices("abcdefgh ", k=60)) for _ in range(40)]
    (folder / "text.txt").write_text("\n".join(lines))
    file = folder / "killed.toml"
    file.write_text(text.format(folder=folder, budget=budget))
    return file


class Driver:
    """Runs `rayduce` in a process of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.log = folder / "measured.log"
        self.env = {
            **os.environ,
            "RAYDUCE_TEST_LOG": str(self.log),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            **environment,
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

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
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
