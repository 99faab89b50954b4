"""ILM with its cache against without, and PiFi's training against the loop of the paper's code.

    python -m benchmarks.ilm [--trials 50] [--without 50] [--samples 400] [--steps 8]

ILM: (n_pcs, top_pc) settings on SmolLM2-135M and TREC questions, each as a search would try it.
Without the cache every setting loads the model, computes the states of all layers, fits probes and
components. `--without N` measures the first N settings that way and counts them up to all of them.
PiFi: MiniLM with the last layer of SmolLM2-135M, the same examples in the same order. The plain
loop loads the whole language model for its layer, pads every text to 100 tokens and lets the layer
attend to its one token. Dropout is off on both sides, so that the losses can be compared.

CPU seconds of this process, one thread. Fetches assets (210 MB). The last line is JSON.
"""

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from trainables.bench.assets.fetch import fetch
from trainables.bench.bench import Bench
from trainables.bench.training.examples import examples, shuffled
from trainables.core.cache import digest
from trainables.core.spec import BenchSpec
from trainables.core.types import Batch
from trainables.ilm import ILM
from trainables.plugin import PlugIn
from trainables.recover import Recover
from trainables.trial import open_bench

DONOR, ENCODER = "asset:smollm2-135m", "asset:minilm-l6"
LENGTH, SIZE, SEED = 100, 32, 7
TRAINING = {
    **{"epochs": 1, "lr": 5e-5, "optimiser": "adam", "schedule": "constant", "batch_size": SIZE},
    **{"label_smoothing": 0.05, "clip": 5.0, "seed": SEED},
}


def opened(place: Path, model: str, samples: int, train: int, *, naive: bool) -> Bench:
    """A bench on questions, with a cache of its own."""
    counts = {"calibration": samples, "train": train, "search": 64, "held_out": 64}
    data = {"dataset": "asset:trec", "task": "classification", "items": counts}
    spec = {
        "model": {"id": model},
        "data": {**data, "max_length": LENGTH, "batch_size": SIZE},
        "objectives": ("accuracy",),
        "seed": 0,
        "cache": str(place / "cache"),
        "naive": naive,
    }
    return open_bench(BenchSpec.model_validate(spec))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what came of it."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


# -- ILM -------------------------------------------------------------------------------------------


def settings(count: int) -> list[tuple[int, int]]:
    """(n_pcs, top_pc), no two alike, in an order of the seed."""
    every = [(pcs, top) for pcs in (4, 8, 16, 32, 64) for top in range(1, pcs + 1)]
    return random.Random(0).sample(every, count)


def look(place: Path, points: Sequence[tuple[int, int]], samples: int, *, naive: bool) -> list[Any]:
    """(seconds, effects) of each setting."""
    bench = opened(place, ENCODER, samples, 1, naive=naive)

    def one(pcs: int, top: int) -> Any:
        stage = ILM(DONOR, n_pcs=pcs, top_pc=top, n_samples=samples, max_length=64, compare=())
        return stage.find(bench).selection.effects

    return [timed(lambda p=point: one(*p)) for point in points]  # type: ignore[misc]


def compare_ilm(place: Path, trials: int, without: int, samples: int) -> dict[str, Any]:
    """The same settings both ways."""
    points = settings(trials)
    ours = look(place, points, samples, naive=False)
    naive = look(place, points[:without], samples, naive=True)
    baseline = sum(seconds for seconds, _ in naive) * trials / without
    mine = sum(seconds for seconds, _ in ours)
    same = [a for _, a in naive] == [b for _, b in ours[:without]]
    assert same, "effects differ with and without the cache"
    return {
        "baseline": round(baseline, 2),
        "ours": round(mine, 2),
        "ratio": round(baseline / mine, 1),
        "equal": same,
        "slowest_after_the_first": round(max(seconds for seconds, _ in ours[1:]), 3),
    }


# -- PiFi ------------------------------------------------------------------------------------------


def without_dropout(place: Path) -> str:
    """The encoder as a folder that says so."""
    folder = place / "encoder"
    shutil.copytree(fetch(ENCODER.removeprefix("asset:")), folder, dirs_exist_ok=True)
    told = json.loads((folder / "config.json").read_text())
    told |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(told))
    return str(folder)


class Plain(nn.Module):
    """Encoder, projections, a whole decoder layer and a head, as the paper's code has them."""

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__()
        donor = AutoModelForCausalLM.from_pretrained(fetch("smollm2-135m"), dtype=torch.float32)
        for parameter in donor.parameters():
            parameter.requires_grad = False
        self.model = copy.deepcopy(encoder)
        self.layer, self.rotary = donor.model.layers[-1], donor.model.rotary_emb
        width, inner = self.model.config.hidden_size, donor.config.hidden_size
        self.into = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.Dropout(0.0), nn.GELU(), nn.Linear(width, classes)
        )

    def forward(self, **batch: Any) -> torch.Tensor:
        first = self.model(**batch).last_hidden_state[:, :1]
        hidden = self.into(first)
        places = torch.zeros(len(hidden), 1, dtype=torch.long)
        told = self.rotary(hidden, places)
        seen = self.layer(hidden, position_ids=places, position_embeddings=told)
        found: torch.Tensor = self.head(self.out(seen)[:, 0])
        return found


def padded(batch: Batch) -> Batch:
    """Every text as long as the longest may be."""
    more = LENGTH - batch["input_ids"].shape[1]
    long = [name for name, value in batch.items() if value.dim() == 2]
    return {n: nn.functional.pad(v, (0, more)) if n in long else v for n, v in batch.items()}


def plain(encoder: Any, rows: Sequence[Batch], begun: Any, seed: int) -> float:
    """The mean loss of an epoch of the plain loop, from the same new weights."""
    model = Plain(encoder, begun.config.num_labels)
    for mine, theirs in (("into", "plug.into"), ("out", "plug.out"), ("head", "classifier")):
        source = begun.get_submodule(theirs)
        model.get_submodule(mine).load_state_dict(source.state_dict())
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-5)
    total, count = 0.0, 0
    model.train()
    for batch in shuffled(rows, SIZE, seed):
        given = padded(batch)
        labels = given.pop("labels")
        loss = nn.functional.cross_entropy(model(**given), labels, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        total, count = total + loss.item() * len(labels), count + len(labels)
    return total / count


def compare_training(place: Path, steps: int) -> dict[str, Any]:
    """The same epoch both ways."""
    encoder = without_dropout(place)
    bench = opened(place, encoder, 32, steps * SIZE, naive=True)
    rows = examples(bench.data.batches("train"))
    stage = PlugIn(DONOR, layer=-1, dropout=0.0, training=Recover(TRAINING))
    begun = stage._in(bench.subject, stage._donated(None)).model
    seed = int(digest(SEED, 1), 16) >> 1
    baseline, theirs = timed(lambda: plain(bench.base.model.base_model, rows, begun, seed))
    seconds, progress = timed(lambda: list(stage.on(bench.fork())))
    mine = progress[-1]["train_loss"]
    assert abs(mine - theirs) < 1e-4 * max(theirs, 1.0), f"losses differ: {mine} and {theirs}"
    whole = sum(file.stat().st_size for file in fetch("smollm2-135m").glob("*.safetensors"))
    return {
        "baseline": round(baseline, 2),
        "ours": round(seconds, 2),
        "ratio": round(baseline / seconds, 2),
        "equal": True,
        "losses": [round(theirs, 6), round(mine, 6)],
        "bytes_read": [whole, stage._donated(None).bytes],  # type: ignore[union-attr]
    }


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--without", type=int, default=50, help="settings tried without the cache")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--steps", type=int, default=8, help="training steps of the epoch")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="rayduce-") as folder:
        place = Path(folder)
        few = min(given.without, given.trials)
        found = {
            "ilm": compare_ilm(place, given.trials, few, given.samples),
            "pifi_training": compare_training(place, given.steps),
        }
    table = Table("case", "baseline s", "ours s", "ratio", "equal", title="CPU seconds, one thread")
    for name, one in found.items():
        table.add_row(name, *(str(one[key]) for key in ("baseline", "ours", "ratio", "equal")))
    Console(width=100).print(table)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
