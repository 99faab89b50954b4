"""Six quantizations of one model: a process each, as tools are run from the command line, against
one bench that keeps the model and only forks it.

    python -m benchmarks.quantize [--model asset:minilm-l6]

Every process loads the model and the data, quantizes, and predicts. The bench does the same six in
one process; what each says of every item must be equal. Seconds are of the processor, so that a
busy machine changes nothing. The last line is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.core.places import CHECKOUT
from trainables.quantize import Quantize

STAGES = (
    Quantize("int8"),
    Quantize("int8-dynamic"),
    Quantize("int4"),
    Quantize("int8", spare=("attention",)),
    Quantize("int8", spare_blocks=(0,)),
    Quantize("int8", embeddings=True),
)


def run(model: str, cache: str, stages: Sequence[Quantize]) -> list[list[int]]:
    """What each quantized model predicts for every item, from one bench."""
    from trainables.bench.metrics.side_by_side import predictions
    from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec
    from trainables.stage import drain
    from trainables.trial import open_bench

    items = ItemCounts(calibration=8, train=8, search=64, held_out=8)
    data = DataSpec(
        dataset="asset:bbc-news", task="classification", items=items, max_length=32, batch_size=32
    )
    spec = BenchSpec(
        model=ModelSpec(id=model), data=data, objectives=("accuracy",), cache=cache, seed=2023
    )
    bench = open_bench(spec)
    found = []
    for stage in stages:
        own = bench.fork()
        drain(stage.on(own))
        batches = bench.data.batches("search")
        found.append([one for batch in predictions(own.model, batches) for one in batch])
    return found


def fresh(model: str, number: int, cache: str) -> list[int]:
    """The same of one of them, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.quantize", "--model", model, "--cache", cache]
    done = subprocess.run(
        [*command, "--one", str(number)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _of_children() -> float:
    """Seconds of the processor that ended processes of ours took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(model: str) -> dict[str, Any]:
    """Seconds of six processes, and of a warm one that opens a bench and does all six."""
    with tempfile.TemporaryDirectory() as place:
        fresh(model, 0, str(Path(place, "warm")))  # files are read once before
        theirs, each = [], []
        for number, stage in enumerate(STAGES):
            began = _of_children()
            theirs.append(fresh(model, number, str(Path(place, f"fresh-{number}"))))
            each.append(_of_children() - began)
            sys.stdout.write(f"{stage!s:110.110} {each[-1]:8.2f} s\n")
        resident = str(Path(place, "resident"))
        run(model, resident, STAGES[:1])  # a warm worker has its imports behind it
        began = time.process_time()
        ours = run(model, resident, STAGES)
        seconds = time.process_time() - began
    return {
        "baseline": sum(each),
        "ours": seconds,
        "ratio": sum(each) / seconds,
        "equal": ours == theirs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="asset:minilm-l6")
    parser.add_argument("--cache", default="")
    parser.add_argument("--one", type=int, default=-1)
    given = parser.parse_args()
    if given.one >= 0:
        found = run(given.model, given.cache, STAGES[given.one : given.one + 1])
        sys.stdout.write(f"{json.dumps(found[0])}\n")
        return
    told = compare(given.model)
    sys.stdout.write(
        f"fresh processes {told['baseline']:.1f} s, a resident one {told['ours']:.1f} s: "
        f"{told['ratio']:.1f} times, equal: {told['equal']}\n"
    )
    sys.stdout.write(f"{json.dumps({'six_quantizations': told})}\n")


if __name__ == "__main__":
    main()
