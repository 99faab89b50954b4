"""A time taken alone against the same time taken beside other work: one model, 10 times each.

python -m benchmarks.alone [--times N]

Two workers compute and measure, as trials do: one while the other waits, both taking turns on the
device, and both without; in rounds, so that what else the machine does meets all three alike.
Asserts that the metrics which are no times are equal to the last bit.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
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


def work(folder: Path, me: int, rounds: int, barrier: Any, told: Any) -> None:
    """A worker's process: a trial in every case, while the other one does the same or waits."""
    bench, turns = opened(folder), (alone.Turns.claim, alone.Turns.enter)
    bench.fork().measure(NAMES)  # a process's first is slower, beside others or not
    for number in range(rounds):
        for case, (count, takes) in CASES.items():
            barrier.wait()
            if count == 2 or number % 2 == me:
                claim, enter = turns if takes else (lambda _: False, lambda _: None)
                alone.Turns.claim, alone.Turns.enter = claim, enter  # type: ignore[method-assign]
                with computing("bench"):
                    told.put((case, me, bench.fork().measure(NAMES).values))
            barrier.wait()


CASES = {"1 worker": (1, True), "2 in turns": (2, True), "2 without": (2, False)}


def measured(folder: Path, rounds: int) -> dict[str, dict[int, list[dict[str, float]]]]:
    """case -> worker -> what it measured."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=work, args=(folder, me, rounds, barrier, told)) for me in (0, 1)
    ]
    for process in processes:
        process.start()
    found: dict[str, dict[int, list[dict[str, float]]]] = {case: {0: [], 1: []} for case in CASES}
    try:
        for _ in range(rounds * sum(count for count, _ in CASES.values())):
            case, me, values = told.get(timeout=600)
            found[case][me].append(values)
    finally:
        for process in processes:
            process.join(timeout=60)
            process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="A time taken alone against one beside others.")
    parser.add_argument("--times", type=int, default=10, help="measurements of each kind")
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory(prefix="rayduce-alone-") as name:
        prepare(Path(name))
        found = measured(Path(name), max(2, times))
    medians = {  # of each worker by itself, as two processes never lie alike in memory
        case: statistics.mean(
            statistics.median(one["latency_ms"] for one in each) for each in mine.values()
        )
        for case, mine in found.items()
    }
    base, ours, without = medians.values()
    lines = [f"{'':12} {'latency_ms':>12} {'against 1 worker':>18}"]
    lines += [
        f"{case:12} {value:12.2f} {value / base - 1:+18.1%}" for case, value in medians.items()
    ]
    every = [one for mine in found.values() for each in mine.values() for one in each]
    others = {(one["perplexity"], one["parameters"]) for one in every}
    told = {"baseline": base, "ours": ours, "ratio": ours / base, "equal": len(others) == 1}
    lines.append(json.dumps({"alone": told | {"without": without}}))
    sys.stdout.write("\n".join(lines) + "\n")
    assert len(others) == 1, "the same model has other metrics"


if __name__ == "__main__":
    main()
