"""Racing against measuring every trial whole: the front, and how many items were evaluated for it.

python -m benchmarks.racing [--trials N] [--items N] [--length N]

One study is searched twice with one worker, from the same seed: SmolLM2-135M on BBC news, which
blocks to skip and how many weights of the rest to zero. Its points are drawn at random, so that
both searches try the same ones: any other sampler learns from what a trial scored, and from an
estimate of it goes elsewhere. Asserts that both fronts are the same models with the same numbers,
to the last bit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.journal.results import Result
from search.journal.store import find_store
from search.journal.view import View, read
from trainables.core.places import CHECKOUT

STUDY = """
name = "{name}"
space = {{ name = "omission_wanda", max_skip = 8, high = 60 }}
seed = 2023
[model]
id = "asset:smollm2-135m"
dtype = "float32"
[data]
dataset = "asset:bbc-news"
task = "language-modelling"
max_length = {length}
batch_size = 4
items = {{ calibration = 8, train = 1, search = {items}, held_out = 8 }}
[objectives]
perplexity = "min"
nonzero_parameters = "min"
[constraints]
perplexity = "<= 130% of baseline"
[budget]
trials = {trials}
[resources]
workers = 1
[sampler]
name = "random"
[scheduler]
name = "{scheduler}"
"""


@dataclass(frozen=True)
class Searched:
    """One search, and what it took."""

    view: View
    items: int

    @property
    def front(self) -> list[dict[str, float]]:
        """The models on the front, by their numbers."""
        found = [dict(one.metrics) for one in self.view.results if one.on_front]
        return sorted(found, key=lambda one: sorted(one.items()))

    @property
    def evaluated(self) -> float:
        """Items that were run through a model; one known before takes none."""
        return sum(self._of(one) for one in self.view.results)

    def _of(self, result: Result) -> float:
        if result.state == "pruned":
            return float(result.record["share"]) * self.items
        return 0.0 if result.state != "complete" or result.same_as else self.items

    @property
    def stopped(self) -> int:
        return sum(one.state == "pruned" for one in self.view.results)


def search(folder: Path, scheduler: str, given: argparse.Namespace) -> Searched:
    """Search from nothing, in a folder of its own."""
    name, text = f"racing-{scheduler}", folder / f"{scheduler}.toml"
    sizes = {"trials": given.trials, "items": given.items, "length": given.length}
    text.write_text(STUDY.format(name=name, scheduler=scheduler, **sizes))
    runs = folder / scheduler
    command = [sys.executable, "-m", "search", "launch", str(text), "--storage", str(runs)]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    return Searched(read(find_store(runs, name)), given.items)


def main() -> None:
    parser = argparse.ArgumentParser(description="Racing against measuring every trial whole.")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--length", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rayduce-racing-") as folder:
        whole = search(Path(folder), "none", given)
        racing = search(Path(folder), "racing", given)
    lines = [f"{'':10} {'evaluated items':>16} {'stopped early':>14} {'on the front':>13}"]
    for name, one in (("whole", whole), ("racing", racing)):
        lines.append(f"{name:10} {one.evaluated:16.0f} {one.stopped:14} {len(one.front):13}")
    equal = whole.front == racing.front
    told: dict[str, Any] = {"baseline": whole.evaluated, "ours": racing.evaluated}
    told |= {"ratio": racing.evaluated / whole.evaluated, "equal": equal}
    sys.stdout.write("\n".join([*lines, json.dumps({"racing": told})]) + "\n")
    assert equal, "racing found another front"


if __name__ == "__main__":
    main()
