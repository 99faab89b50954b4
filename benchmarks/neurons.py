"""Neuron pruning against torch-pruning, on SmolLM2-135M: time per trial, and that the same is kept.

    pip install 'rayduce[benchmarks]' && python -m benchmarks.neurons [--repeats 3]

Both take 10, 25 and 50 % of the feed-forward neurons out of the dense model, by squared weights
measured against their layer, all layers compared. torch-pruning prunes in place: it gets a copy
of the model for each trial, traces it and prunes. Ours was calibrated once, as in a study, and
each trial forks the model and cuts. Runs alternate; the ratio is of the medians of CPU time on one
thread. `equal` says that both keep the very same weights, all of them, bit by bit. Latency (median
of passes over one batch) and memory (weights, buffers, and what a pass adds) are of the untouched
model and of the cut one, in this process, in turn.

Fetches asset:smollm2-135m (93 MB) on first use. The last line is JSON.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainables.bench.assets.fetch import fetch
from trainables.bench.metrics.artefact import measure
from trainables.core.fork import fork
from trainables.core.types import Stats
from trainables.neurons import Neurons
from trainables.neurons.calibrate import Weights
from trainables.neurons.ffn import ffns

RATIOS = (0.10, 0.25, 0.50)
Row = dict[str, Any]


def theirs(model: PreTrainedModel, ratio: float, tokens: Tensor) -> PreTrainedModel:
    """A trial with torch-pruning: its magnitude importance, globally, the feed-forward layers."""
    import torch_pruning as tp

    own = copy.deepcopy(model)
    roots = {layer for one in ffns(own) for layer in one.expand}
    kinds = (nn.Linear, nn.Embedding)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of norms, which it leaves alone
        tp.pruner.BasePruner(
            own,
            {"input_ids": tokens, "use_cache": False},
            importance=tp.importance.MagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[m for m in own.modules() if isinstance(m, kinds) and m not in roots],
            root_module_types=[nn.Linear],
            output_transform=lambda out: out.logits,
        ).step()
    return own


def ours(model: PreTrainedModel, ratio: float, stats: Stats) -> PreTrainedModel:
    """A trial of a study: a fork, cut by what was measured once."""
    own = fork(model)
    Neurons(ratio, 0.99, score="weight", edge_protect=0).apply(own, stats)
    return own


def compare(model: PreTrainedModel, tokens: Tensor, ratio: float, repeats: int) -> Row:
    """One row: time per trial of both, whether they keep the same, and what the cut model costs."""
    began = time.process_time()
    stats = Weights.calibrate(model, [])
    calibration = time.process_time() - began
    times: dict[str, list[float]] = {"baseline": [], "ours": []}
    works: dict[str, Callable[[], PreTrainedModel]] = {
        "baseline": lambda: theirs(model, ratio, tokens[:1, :8]),
        "ours": lambda: ours(model, ratio, stats),
    }
    for work in works.values():  # what imports and caches cost once
        work()
    made: dict[str, PreTrainedModel] = {}
    for _ in range(repeats):
        for name, work in works.items():
            began = time.process_time()
            made[name] = work()
            times[name].append(time.process_time() - began)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return {
        **seconds,
        "ratio": seconds["baseline"] / seconds["ours"],
        "equal": same(made["baseline"], made["ours"]),
        "calibration": calibration,
        "widths": [one.width for one in ffns(made["ours"])],
        "before": measure(model, batch),
        "after": measure(made["ours"], batch),
    }


def same(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models hold the very same weights."""
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[n], others[n]) for n in mine)


def show(rows: dict[str, Row], console: Console) -> None:
    """The table for people."""
    heads = ("torch-pruning", "ours", "ratio", "same weights", "parameters", "memory", "latency")
    table = Table("neurons removed", *heads, title="CPU seconds per trial, SmolLM2-135M")
    for name, row in rows.items():
        before, after = row["before"], row["after"]
        changes = [
            f"{before[key] / size:.4g} → {after[key] / size:.4g} {unit}"
            for key, size, unit in (("parameters", 1e6, "M"), ("memory", 1e6, "MB"))
        ]
        changes.append(f"{before['latency_ms']:.4g} → {after['latency_ms']:.4g} ms")
        equal = "yes" if row["equal"] else "NO"
        cells = [f"{row['baseline']:.3f}", f"{row['ours']:.3f}", f"{row['ratio']:.1f}x", equal]
        table.add_row(name, *cells, *changes)
    console.print(table)


def main() -> None:
    """Run all cases; exit with 1 where the two do not keep the same weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(fetch("smollm2-135m"), dtype=torch.float32).eval()
    tokens = torch.randint(0, model.config.vocab_size, (4, 128), generator=torch.Generator())
    rows: dict[str, Row] = {}
    for ratio in RATIOS:
        row = rows[f"{100 * ratio:.0f} %"] = compare(model, tokens, ratio, repeats)
        sys.stderr.write(f"{100 * ratio:.0f} %: {row['ratio']:.1f}x, equal {row['equal']}\n")
    show(rows, Console(width=130))
    sys.stdout.write(json.dumps(rows) + "\n")
    sys.exit(0 if all(row["equal"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main()
