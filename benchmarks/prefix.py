"""Beginning at the block where a model first differs, against running every model whole.

    python -m benchmarks.prefix [--items 8] [--sets 10] [--case wanda]

Three searches on SmolLM2-135M in float32, English news: blocks left out; the same, then Wanda at 30
and 50 percent, which calibrates in between; and feed-forward neurons of the later two thirds, the
edges protected. Both sides are one worker with warm models, and share calibrations and metrics as
every search does; they differ in where a pass begins. They take turns trial by trial, and trial 0,
the untouched model, counts. Block-forwards are a block on a batch; the ratio is of CPU time on one
thread, the whole trial with its pruning; `without head` leaves out the head, which gives every
token's likelihood and is a third of an evaluation of so small a model. `equal` says that metrics
are the same to the last bit, or this exits with 1. `kept` is how many bytes of states lie on disk,
mapped by all workers.

Fetches asset:smollm2-135m and asset:bbc-news (96 MB) on first use. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.depth import head_time
from benchmarks.engine import SETS
from trainables.bench.assets.fetch import fetch
from trainables.bench.bench import Bench
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.neurons import Neurons
from trainables.omission import Omission
from trainables.stage import Stage, drain
from trainables.trial import open_bench, run_stages
from trainables.wanda import Wanda


def searches(sets: int) -> dict[str, Sequence[Sequence[Stage]]]:
    """Each search's trials, in their order."""
    skips = SETS[:sets]
    ratios = [0.10 + 0.02 * number for number in range(sets)]
    pruned = [[Omission(skip), Wanda(share)] for share in (0.3, 0.5) for skip in skips]
    narrow = [[Neurons(round(ratio, 2), edge_protect=10, edge_share=1.0)] for ratio in ratios]
    return {
        "omission": [[], *([Omission(skip)] for skip in skips)],
        "omission > wanda": [[], *pruned],
        "neurons": [[], *narrow],
    }


@dataclass
class Side:
    """One of the two, and what it came to."""

    bench: Bench
    seconds: float = 0.0
    head: float = 0.0  # of these
    done: int = 0
    whole: int = 0

    def run(self, stages: Sequence[Stage]) -> dict[str, float]:
        """One trial."""
        began = time.process_time()
        bench = self.bench.fork()
        with head_time(bench.model) as spent:
            metrics: dict[str, float] = drain(run_stages(bench, stages))["metrics"]
        bench.cache.release()
        self.seconds += time.process_time() - began
        self.head += sum(spent)
        self.done += bench.work.done
        self.whole += bench.work.whole
        return metrics


def opened(folder: Path, items: int, *, whole: bool) -> Side:
    """A worker's bench; `whole`: every pass begins at the first block."""
    counts = ItemCounts(calibration=items, train=1, search=items, held_out=1)
    spec = BenchSpec(
        model=ModelSpec(id="asset:smollm2-135m"),
        data=DataSpec(
            dataset="asset:bbc-news",
            task="language-modelling",
            items=counts,
            max_length=128,
            batch_size=4,
        ),
        objectives=("perplexity", "parameters"),
        cache=str(folder),
    )
    bench = open_bench(spec)
    if whole and bench.prefixes is not None:
        bench.prefixes.why = "asked for"
    return Side(bench)


def compare(trials: Sequence[Sequence[Stage]], items: int, folder: Path) -> dict[str, Any]:
    """Both sides, trial by trial."""
    plain = opened(folder / "whole", items, whole=True)
    ours = opened(folder / "ours", items, whole=False)
    equal = all([plain.run(stages) == ours.run(stages) for stages in trials])
    states = (folder / "ours" / "states").glob("*")
    return {
        "baseline": plain.seconds,
        "ours": ours.seconds,
        "ratio": plain.seconds / ours.seconds,
        "without_head": (plain.seconds - plain.head) / (ours.seconds - ours.head),
        "equal": equal,
        "block_forwards": [ours.whole, ours.done],
        "block_ratio": ours.whole / ours.done,
        "trials": len(trials),
        "kept": sum(path.stat().st_size for path in states),
    }


def show(rows: dict[str, dict[str, Any]], console: Console) -> None:
    """The table for people."""
    columns = ("trials", "whole s", "ours s", "ratio", "without head", "block-forwards", "")
    table = Table("search", *columns, "equal")
    for name, row in rows.items():
        keys = ("baseline", "ours", "ratio", "without_head")
        numbers = [f"{row[key]:.2f}" for key in keys]
        work = "{:,} → {:,}".format(*row["block_forwards"])
        ratio = f"{row['block_ratio']:.2f}x"
        table.add_row(name, str(row["trials"]), *numbers, work, ratio, str(row["equal"]))
    console.print(table)


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=8, help="windows of 128 tokens, per role")
    parser.add_argument("--sets", type=int, default=len(SETS), help="omission sets, at most 10")
    parser.add_argument("--case", default="", help="only searches whose name contains this")
    given = parser.parse_args(arguments)
    for asset in ("smollm2-135m", "bbc-news"):
        fetch(asset)
    rows = {}
    torch.set_num_threads(1)
    for name, trials in searches(given.sets).items():
        if given.case in name:
            with tempfile.TemporaryDirectory() as scratch:
                rows[name] = compare(trials, given.items, Path(scratch))
    show(rows, Console(width=110))
    sys.stdout.write(json.dumps(rows) + "\n")
    raise SystemExit(0 if all(row["equal"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
