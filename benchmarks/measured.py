"""Real studies for benchmarks of searches: every model measured once, and kept in a file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from search.samplers.grid import grid_points
from search.samplers.points import key_of
from search.study.load import parse_study
from search.study.space import load_space
from trainables.bench.survey import gather
from trainables.core.errors import UserError
from trainables.stage import drain
from trainables.trial import open_bench, run_stages

REAL = """
name = "quality"
space = { name = "omission_wanda", max_skip = 5, keep_first = 0, keep_last = 0 }
seed = 2023
[model]
id = "asset:minilm-l6"
[model.train]
epochs = 3
lr = 1e-4
batch_size = 16
[data]
dataset = "asset:bbc-news"
task = "classification"
max_length = 32
batch_size = 32
items = { calibration = 128, train = 384, search = 256, held_out = 256 }
[objectives]
accuracy = "max"
nonzero_parameters = "min"
[constraints]
accuracy = ">= 80% of baseline"
[budget]
trials = 38
"""
SMOLLM2 = """
name = "quality-smollm2"
space = { name = "omission_wanda", max_skip = 8, high = 40 }
seed = 2023
[model]
id = "asset:smollm2-135m"
dtype = "float32"
[data]
dataset = "asset:bbc-news"
task = "language-modelling"
max_length = 64
batch_size = 4
items = { calibration = 4, train = 1, search = 16, held_out = 32 }
[objectives]
perplexity = "min"
nonzero_parameters = "min"
[constraints]
perplexity = "<= 130% of baseline"
[budget]
trials = 60
"""
STUDIES = {"minilm": REAL, "smollm2": SMOLLM2}


class Measured:
    """A study's models, each measured once and kept in a file."""

    def __init__(self, text: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.study = parse_study(text, "quality.toml")
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]  # another study is another file
        self.file = folder / f"{self.study.name}-{mark}.json"
        self.known: dict[str, Any] = (
            json.loads(self.file.read_text()) if self.file.is_file() else {}
        )
        self.space = load_space(self.study.space)
        self.bench = open_bench(self.study.bench_spec(folder / "cache"))
        self.baseline = self.measure([])
        self.facts = gather(self.bench.fork(), self.space)

    def ask(self, trial: Any) -> Any:
        return self.space.stages(trial, self.facts)

    def measure(self, stages: list[Any]) -> Any:
        """Metrics, or None for a model that cannot be made."""
        key = str(key_of(stages))
        if key not in self.known:
            try:
                record = drain(run_stages(self.bench.fork(), stages))
                self.known[key] = {n: record["metrics"][n] for n in self.study.objectives}
            except UserError:
                self.known[key] = None
            self.file.write_text(json.dumps(self.known))
        return self.known[key]

    def enumerate(self) -> list[dict[str, float]]:
        """Every model of the space, measured."""
        points = grid_points(self.ask)
        found = [self.measure(self.ask(FixedTrial(point))) for point in points]
        return [one for one in found if one is not None]
