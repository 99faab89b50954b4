"""Does a teacher help? The same student with and without one, over several seeds.

    python -m benchmarks.distill [--seeds 5] [--student every:3] [--epochs 3]

The teacher is the packaged MiniLM encoder of 6 blocks, fine-tuned to tell TREC's six kinds of
questions apart. The student keeps some of its blocks and sees the same rows, in an order of the
seed: with labels alone, or with labels and the teacher; and for twice as many steps with labels
alone, or with labels, the teacher and as many questions whose labels are kept from it.
Accuracy is on held-out rows; the interval is Student's, of the differences seed by seed, and the
table says in words whether the teacher helped. `equal` says that what trials share gives the same
weights as the naive path. Fetches 115 MB on first use; some minutes. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from spaces.distill import cut
from trainables.bench.assets.fetch import fetch
from trainables.bench.bench import Bench
from trainables.bench.models.save import save
from trainables.core.cache import digest_tensors
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec, TextsSpec, TrainSpec
from trainables.distill import Distill
from trainables.omission.importance import BlockInfluence
from trainables.recover import Recover
from trainables.stage import Facts, Stage, drain
from trainables.trial import open_bench, run_stages, shape

# Student's t, two-sided 95 %, by degrees of freedom from 1 on.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
TRAIN, TEXTS, LONGER = 512, 512, 2
AGAINST = {  # each arm, and the one without a teacher that it is compared with
    "labels": "",
    "labels, teacher": "labels",
    "labels, longer": "",
    "labels, teacher, texts": "labels, longer",
}


@dataclass(frozen=True)
class Paired:
    """The mean of differences, and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.low > 0:
            return "the teacher helps"
        return "the teacher hurts" if self.high < 0 else "no difference that these seeds show"


def paired(ours: Sequence[float], baseline: Sequence[float]) -> Paired:
    """Of the differences pair by pair, two pairs to ten, by Student's t."""
    gaps = [one - other for one, other in zip(ours, baseline, strict=True)]
    mean = statistics.mean(gaps)
    reach = STUDENT_T[len(gaps) - 2] * statistics.stdev(gaps) / len(gaps) ** 0.5
    return Paired(mean, mean - reach, mean + reach)


def bench_spec(folder: Path, model: ModelSpec, seed: int = 0, *, naive: bool = False) -> BenchSpec:
    """The rows are the same whatever the seed."""
    data = DataSpec(
        dataset="asset:trec",
        task="classification",
        seed=2023,
        max_length=32,
        batch_size=64,
        items=ItemCounts(calibration=64, train=TRAIN, search=64, held_out=2048),
    )
    return BenchSpec(
        model=model,
        data=data,
        objectives=("accuracy",),
        seed=seed,
        cache=str(folder / "cache"),
        threads=torch.get_num_threads(),
        naive=naive,
    )


def fine_tuned(folder: Path) -> ModelSpec:
    """The teacher, trained once and saved."""
    training = TrainSpec(epochs=4, lr=3e-4, batch_size=32, warmup=0.1)
    made = open_bench(bench_spec(folder, ModelSpec(id="asset:minilm-l6", train=training)))
    (folder / "teacher").mkdir()
    save(made.model, made.processor, "classification", folder / "teacher")
    return ModelSpec(id=str(folder / "teacher"))


def without_labels(folder: Path) -> TextsSpec:
    """All questions; those that have a role are left out where they are read."""
    table = pq.read_table(next(fetch("trec").glob("*.parquet")), columns=["text"])
    rows = (json.dumps({"text": text}) for text in table["text"].to_pylist())
    (folder / "questions.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return TextsSpec(dataset=str(folder / "questions.jsonl"), rows=TEXTS)


def arms(given: argparse.Namespace, facts: Facts, texts: TextsSpec) -> dict[str, list[Stage]]:
    """The stages of each way to train the student."""
    first = cut(given.student, facts)
    spec = TrainSpec(epochs=given.epochs, lr=given.lr, batch_size=32, warmup=0.1)
    short, long = Recover(spec), Recover(spec, epochs=LONGER * given.epochs)
    taught = Distill(temperature=given.temperature, alpha=given.alpha, recover=short)
    more = Distill(
        temperature=given.temperature, alpha=given.alpha, recover=short, unlabelled=texts
    )
    return dict(zip(AGAINST, [[*first, last] for last in (short, taught, long, more)], strict=True))


def accuracy(base: Bench, stages: Sequence[Stage]) -> tuple[float, str]:
    """On held-out rows, and what the weights are."""
    bench = base.fork()
    drain(run_stages(bench, stages))
    found = bench.measure(["accuracy"], "held_out").values["accuracy"]
    bench.cache.release()
    return found, digest_tensors(bench.model.state_dict())


def show(scores: Mapping[str, Sequence[float]]) -> None:
    """The arms, seed by seed, and what the teacher brought."""
    table = Table("trained on", "accuracy, seed by seed", "mean", "difference, 95 %", "")
    for name, values in scores.items():
        row = [name, " ".join(f"{one:.3f}" for one in values), f"{statistics.mean(values):.4f}"]
        if other := AGAINST[name]:
            gap = paired(values, scores[other])
            row += [f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"]
            row += [f'{gap.verdict}, against "{other}"']
        table.add_row(*row)
    Console(width=140).print(table)


def cases(scores: Mapping[str, Sequence[float]], equal: bool) -> dict[str, dict[str, object]]:
    """What is printed for programs."""
    found: dict[str, dict[str, object]] = {}
    for name, other in AGAINST.items():
        if other:
            gap = paired(scores[name], scores[other])
            means = [round(statistics.mean(scores[one]), 4) for one in (other, name)]
            found[name] = {
                "baseline": means[0],
                "ours": means[1],
                "ratio": round(means[1] / means[0], 4),
                "equal": equal,
                "difference": round(gap.mean, 4),
                "interval": [round(gap.low, 4), round(gap.high, 4)],
                "says": gap.verdict,
            }
    return found


def facts_of(bench: Bench) -> Facts:
    """What cutting a student asks for."""
    told = shape(bench.model)
    influence = bench.stats(BlockInfluence)["influence"].tolist()
    return Facts(told["blocks"], tuple(told["stacks"]), survey={"influence": influence})


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--student", default="every:3", help="as in spaces/distill.py")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--alpha", type=float, default=0.9)
    given = parser.parse_args(arguments)
    torch.set_num_threads(2)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, texts = fine_tuned(folder), without_labels(folder)
        first = open_bench(bench_spec(folder, model))
        whole = first.fork().measure(["accuracy"], "held_out").values["accuracy"]
        ways = arms(given, facts_of(first.fork()), texts)
        scores: dict[str, list[float]] = {name: [] for name in AGAINST}
        for seed in range(given.seeds):
            base = open_bench(bench_spec(folder, model, seed))
            weights = {}
            for name, stages in ways.items():
                found, weights[name] = accuracy(base, stages)
                scores[name].append(found)
        plain = open_bench(bench_spec(folder, model, given.seeds - 1, naive=True))
        equal = accuracy(plain, ways["labels, teacher"])[1] == weights["labels, teacher"]
    show(scores)
    Console().print(f"the teacher itself, all blocks: {whole:.4f}")
    sys.stdout.write(json.dumps(cases(scores, equal)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
