"""A time taken alone against the same time taken beside other work: one model, 10 times each.

python -m benchmarks.alone [--times N]

A worker computes and measures in turn, as trials do. Measured with one worker, with two that take
turns on the device, and with two that do not; the runs alternate, so that what else the machine
does meets all of them. Asserts that the metrics which are no times are equal to the last bit.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.toys import bytes_tokenizer, jsonl
from trainables.bench.bench import Bench
from trainables.core import alone
from trainables.core.alone import computing
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.trial import open_bench

NAMES = ("perplexity", "parameters", "latency_ms")
ROUNDS = 5


def prepare(folder: Path) -> None:
    """A model of ten million parameters, and a text."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 320, "intermediate_size": 960, "num_attention_heads": 5}
    config = LlamaConfig(vocab_size=259, num_hidden_layers=8, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    bytes_tokenizer().save_pretrained(folder / "model")
    jsonl(
        folder / "rows.jsonl", [{"text": f"{i} was {i * i} and then {i + 1}"} for i in range(400)]
    )


def opened(folder: Path) -> Bench:
    items = ItemCounts(calibration=1, train=1, search=64, held_out=1)
    data = DataSpec(
        dataset=str(folder / "rows.jsonl"),
        task="language-modelling",
        items=items,
        max_length=96,
        batch_size=8,
    )
    model = ModelSpec(id=str(folder / "model"))
    cache = str(folder / "cache")
    return open_bench(BenchSpec(model=model, data=data, objectives=NAMES, cache=cache, naive=True))


def work(folder: Path, turns: bool, times: int, barrier: Any, told: Any) -> None:
    """A worker's process: so many trials."""
    if not turns:
        alone.Turns.claim = lambda self: False  # type: ignore[method-assign]
        alone.Turns.enter = lambda self: None  # type: ignore[method-assign]
    bench = opened(folder)
    barrier.wait()
    found = []
    for _ in range(times):
        with computing("bench"):
            found.append(bench.fork().measure(NAMES).values)
    told.put(found)
    barrier.wait()  # beside the other to its end


@contextmanager
def workers(folder: Path, count: int, turns: bool, times: int) -> Iterator[list[Any]]:
    """What so many workers measure, side by side."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(count), context.Queue()
    given = (folder, turns, times, barrier, told)
    processes = [context.Process(target=work, args=given) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield [one for _ in processes for one in told.get(timeout=600)]
    finally:
        for process in processes:
            process.join(timeout=60)
            process.kill()


CASES = {"1 worker": (1, True), "2 in turns": (2, True), "2 without": (2, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A time taken alone against one beside others.")
    parser.add_argument("--times", type=int, default=10, help="measurements of each kind")
    times = parser.parse_args().times
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory(prefix="rayduce-alone-") as name:
        prepare(Path(name))
        for _ in range(ROUNDS):
            for case, (count, turns) in CASES.items():
                each = -(-times // (ROUNDS * count))
                with workers(Path(name), count, turns, each) as measured:
                    found[case] += measured
    medians = {case: statistics.median(one["latency_ms"] for one in found[case]) for case in CASES}
    base, ours, without = medians.values()
    lines = [f"{'':12} {'latency_ms':>12} {'against 1 worker':>18}"]
    lines += [
        f"{case:12} {value:12.2f} {value / base - 1:+18.1%}" for case, value in medians.items()
    ]
    others = {(one["perplexity"], one["parameters"]) for case in found.values() for one in case}
    told = {"baseline": base, "ours": ours, "ratio": ours / base, "equal": len(others) == 1}
    lines.append(json.dumps({"alone": told | {"without": without}}))
    sys.stdout.write("\n".join(lines) + "\n")
    assert len(others) == 1, "the same model has other metrics"


if __name__ == "__main__":
    main()
