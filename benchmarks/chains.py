"""Shared chain prefixes, on the emotion table's plan: how many epochs of training are saved.

    python -m benchmarks.chains [--study similarity-bert-emotion] [--rows 17]

Runs the rows of the published table (thresholds, k, passes, freezing, Wanda before and after
retraining, three epochs each time) on a small vision transformer of 12 blocks, trained on the
packaged digits: once naively, every row from the beginning, and once as a search does it, where a
model that any row has trained is taken over. `equal` says that every row ends with bit-identical
weights and the same metrics. Downloads nothing; some minutes. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.utils import logging as transformers_logging

from spaces.similarity import SimilaritySpace
from trainables.bench.training.loop import tensors_of
from trainables.core.cache import digest_tensors
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec, TrainSpec
from trainables.stage import Facts, drain
from trainables.trial import open_bench, run_stages

STUDIES = Path(__file__).parent.parent / "spaces" / "studies"
CONFIG = {
    "num_channels": 1,
    "image_size": 8,
    "patch_size": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 12,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.15,
}


@dataclass(frozen=True)
class Ran:
    """One row of the plan, done."""

    blocks: int
    epochs: int  # trained here
    weights: str
    metrics: dict[str, float]


def small_bench(cache: Path, *, naive: bool) -> BenchSpec:
    """Twelve blocks that learn in seconds."""
    training = TrainSpec(epochs=15, lr=1e-3, schedule="cosine", warmup=0.1, batch_size=32)
    return BenchSpec(
        model=ModelSpec(id="new:vit", config=CONFIG, train=training),
        data=DataSpec(
            dataset="asset:digits",
            task="image-classification",
            batch_size=64,
            items=ItemCounts(calibration=128, train=512, search=256, held_out=256),
        ),
        objectives=("accuracy", "parameters", "nonzero_parameters"),
        cache=str(cache),
        naive=naive,
    )


def run_plan(spec: BenchSpec, study: Mapping[str, Any], rows: int) -> tuple[list[Ran], float]:
    """All rows one after another, as one worker would; and the seconds they took."""
    base = open_bench(spec)
    recover = TrainSpec(epochs=study["space"]["recover"]["epochs"], lr=1e-3, batch_size=32)
    ranges = {k: v for k, v in study["space"].items() if k != "name"} | {"recover": recover}
    space = SimilaritySpace.model_validate(ranges)
    began, done = time.perf_counter(), []
    for number, point in enumerate(study["first"][:rows]):
        fixed = optuna.trial.FixedTrial(point)
        stages = space.stages(fixed, Facts(blocks=12))
        bench = base.fork(f"chains/{number}")
        record = drain(run_stages(bench, stages))
        bench.cache.release()
        done.append(_ran(record, tensors_of(bench.model)))
    return done, time.perf_counter() - began


def _ran(record: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Ran:
    epochs = sum(int(counts["epochs_run"]) for counts in _trainings(record))
    blocks = int(record["shape"]["blocks"])
    return Ran(blocks, epochs, digest_tensors(weights), record["metrics"])


def _trainings(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for stage in record["stages"]:
        for counts in stage["details"].get("passes", (stage["counts"],)):
            if "epochs_run" in counts:
                yield counts


def show(points: Sequence[Mapping[str, Any]], naive: list[Ran], ours: list[Ran]) -> None:
    """The rows side by side."""
    table = Table("row", "blocks", "accuracy", "epochs naive", "epochs shared", "equal")
    for point, one, other in zip(points, naive, ours, strict=True):
        table.add_row(
            " ".join(str(value) for value in point.values()),
            str(one.blocks),
            f"{one.metrics['accuracy']:.4f}",
            str(one.epochs),
            str(other.epochs),
            "yes" if _equal(one, other) else "NO",
        )
    Console(width=110).print(table)


def _equal(one: Ran, other: Ran) -> bool:
    return one.weights == other.weights and one.metrics == other.metrics


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", default="similarity-bert-emotion")
    parser.add_argument("--rows", type=int, default=100, help="only the first so many")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    study = tomllib.loads((STUDIES / f"{given.study}.toml").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        ours, seconds = run_plan(small_bench(Path(folder), naive=False), study, given.rows)
        naive, slow = run_plan(small_bench(Path(folder), naive=True), study, given.rows)
    show(study["first"][: given.rows], naive, ours)
    epochs = [sum(one.epochs for one in runs) for runs in (naive, ours)]
    equal = all(map(_equal, naive, ours))
    cases = {
        "training_epochs": _case(epochs[0], epochs[1], equal),
        "seconds": _case(round(slow, 2), round(seconds, 2), equal),
    }
    sys.stdout.write(json.dumps(cases) + "\n")


def _case(baseline: float, ours: float, equal: bool) -> dict[str, object]:
    return {
        "baseline": baseline,
        "ours": ours,
        "ratio": round(baseline / ours, 3),
        "equal": equal,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
