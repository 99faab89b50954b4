"""A time taken alone against the same time taken beside other work: one model, 10 times each.

python -m benchmarks.alone [--times N]

Two workers compute and measure, as trials do: one while the other waits, both taking turns on the
device, and both without; in rounds, so that what else the machine does meets all three alike. The
lowest of each is the one that the machine's other work disturbed least; `beside` is the share of
measuring during which the other one measured too. Asserts that it is nothing in turns, and that the
metrics which are no times are equal to the last bit.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

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


Spans = list[tuple[float, float]]  # seconds of the machine's clock


@contextmanager
def noted(takes: bool, spans: Spans) -> Iterator[None]:
    """While open, this process notes when it measures, and takes turns or does not."""
    claim, enter, give_back = alone.Turns.claim, alone.Turns.enter, alone.Turns.give_back
    began: list[float] = []

    def claimed(turns: alone.Turns) -> bool:
        got = takes and claim(turns)
        began.append(time.monotonic())
        return got

    def given_back(turns: alone.Turns) -> None:
        spans.append((began.pop(), time.monotonic()))
        give_back(turns)

    with (
        patch.object(alone.Turns, "claim", claimed),
        patch.object(alone.Turns, "give_back", given_back),
        patch.object(alone.Turns, "enter", enter if takes else lambda turns: None),
    ):
        yield


def work(folder: Path, me: int, rounds: int, barrier: Any, told: Any) -> None:
    """A worker's process: a trial in every case, while the other one does the same or waits."""
    bench = opened(folder)
    bench.fork().measure(NAMES)  # a process's first is slower, beside others or not
    for number in range(rounds):
        for case, (count, takes) in CASES.items():
            barrier.wait()
            if count == 2 or number % 2 == me:
                spans: Spans = []
                with noted(takes, spans), computing("bench"):
                    values = bench.fork().measure(NAMES).values
                told.put((case, me, values, spans))
            barrier.wait()


CASES = {"1 worker": (1, True), "2 in turns": (2, True), "2 without": (2, False)}


@dataclass
class Case:
    """What both workers measured in a case, and when."""

    values: list[list[dict[str, float]]] = field(default_factory=lambda: [[], []])
    spans: list[Spans] = field(default_factory=lambda: [[], []])

    def latencies(self, worker: int) -> list[float]:
        return [one["latency_ms"] for one in self.values[worker]]

    @property
    def latency(self) -> float:
        """Milliseconds: the mean of both medians, as two processes never lie alike in memory."""
        return statistics.mean(statistics.median(self.latencies(worker)) for worker in (0, 1))

    @property
    def beside(self) -> float:
        """The share of measuring during which the other one measured too."""
        mine, yours = self.spans
        both = sum(max(0.0, min(b, d) - max(a, c)) for a, b in mine for c, d in yours)
        return 2 * both / sum(end - begin for begin, end in (*mine, *yours))


def measured(folder: Path, rounds: int) -> dict[str, Case]:
    """All cases."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=work, args=(folder, me, rounds, barrier, told)) for me in (0, 1)
    ]
    for process in processes:
        process.start()
    found = {case: Case() for case in CASES}
    try:
        for _ in range(rounds * sum(count for count, _ in CASES.values())):
            case, me, values, spans = told.get(timeout=600)
            found[case].values[me].append(values)
            found[case].spans[me].extend(spans)
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
    base, ours, without = (one.latency for one in found.values())
    least = {case: min(one.latencies(0) + one.latencies(1)) for case, one in found.items()}
    lines = [f"{'':12}{'latency_ms':>12}{'to 1 worker':>13}{'lowest':>9}{'to it':>8}{'beside':>8}"]
    for case, one in found.items():
        lines.append(
            f"{case:12}{one.latency:12.1f}{one.latency / base - 1:+13.1%}"
            f"{least[case]:9.1f}{least[case] / least['1 worker'] - 1:+8.1%}{one.beside:8.0%}"
        )
    same = {
        (values["perplexity"], values["parameters"])
        for case in found.values()
        for mine in case.values
        for values in mine
    }
    told: dict[str, Any] = {
        "baseline": base,
        "ours": ours,
        "ratio": ours / base,
        "equal": len(same) == 1,
    }
    beside = {case: one.beside for case, one in found.items()}
    told |= {"without": without, "lowest": least, "beside": beside}
    lines.append(json.dumps({"alone": told}))
    sys.stdout.write("\n".join(lines) + "\n")
    assert len(same) == 1, "the same model has other metrics"
    assert found["2 in turns"].beside == 0, "two measured at once"


if __name__ == "__main__":
    main()
