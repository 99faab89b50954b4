"""Does a teacher help? The same student with and without one, over several seeds.

    python -m benchmarks.distill [--case digits] [--seeds 5]
    python -m benchmarks.distill --case trec

`digits`: the teacher is a small vision transformer of 12 blocks, trained on the packaged digits,
the student keeps every fourth block. Downloads nothing; a minute or two. `trec`: the teacher is the
packaged MiniLM encoder, fine-tuned to tell six kinds of questions apart, the student a fresh one of
2 blocks, a sixth as wide; besides, each learns three times as long, with labels alone, or with the
teacher and twice as many questions whose labels are kept from it. Fetches 115 MB on first use; some
minutes.

With and without a teacher the student begins alike and sees the same rows in the same order of the
seed. Accuracy is on held-out rows; the interval is Student's, of the differences seed by seed, and
the table says in words whether the teacher helped. `equal` says that what trials share gives the
same weights as the naive path. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks.chains import CONFIG
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
LONGER = 3  # times as long, and as many rows
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


@dataclass(frozen=True)
class Case:
    """A teacher, a student and the rows they learn from.

    Attributes:
        model: the teacher, with how it is trained.
        student: as in spaces/distill.py, or fields of a fresh one's config.
        training: the student's.
        texts: whether there are more of them, without labels.
    """

    model: ModelSpec
    data: DataSpec
    student: str | dict[str, int]
    training: TrainSpec
    texts: bool = False


DIGITS = Case(
    ModelSpec(
        id="new:vit",
        config=CONFIG,
        train=TrainSpec(epochs=15, lr=1e-3, schedule="cosine", warmup=0.1, batch_size=32),
    ),
    DataSpec(
        dataset="asset:digits",
        task="image-classification",
        seed=2023,
        batch_size=64,
        items=ItemCounts(calibration=64, train=512, search=64, held_out=1024),
    ),
    "every:4",
    TrainSpec(epochs=6, lr=1e-3, warmup=0.1, batch_size=32),
)
NARROW = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 2,
}
TREC = Case(
    ModelSpec(id="asset:minilm-l6", train=TrainSpec(epochs=4, lr=3e-4, warmup=0.1, batch_size=32)),
    DataSpec(
        dataset="asset:trec",
        task="classification",
        seed=2023,
        max_length=32,
        batch_size=64,
        items=ItemCounts(calibration=64, train=512, search=64, held_out=2048),
    ),
    NARROW,
    TrainSpec(epochs=6, lr=2e-3, warmup=0.1, batch_size=32),
    texts=True,
)
CASES = {"digits": DIGITS, "trec": TREC}


def bench_spec(
    folder: Path, case: Case, model: ModelSpec, seed: int = 0, *, naive: bool = False
) -> BenchSpec:
    """The rows are the same whatever the seed."""
    return BenchSpec(
        model=model,
        data=case.data,
        objectives=("accuracy",),
        seed=seed,
        cache=str(folder / "cache"),
        threads=torch.get_num_threads(),
        naive=naive,
    )


def fine_tuned(folder: Path, case: Case) -> ModelSpec:
    """The teacher, trained once and saved."""
    made = open_bench(bench_spec(folder, case, case.model))
    (folder / "teacher").mkdir()
    save(made.model, made.processor, case.data.task, folder / "teacher")
    return ModelSpec(id=str(folder / "teacher"))


def without_labels(folder: Path, case: Case) -> TextsSpec:
    """All questions; those that have a role are left out where they are read."""
    table = pq.read_table(next(fetch("trec").glob("*.parquet")), columns=["text"])
    rows = (json.dumps({"text": text}) for text in table["text"].to_pylist())
    (folder / "questions.jsonl").write_text("\n".join(rows), encoding="utf-8")
    more = case.data.items.train * (LONGER - 1)
    return TextsSpec(dataset=str(folder / "questions.jsonl"), rows=more)


def arms(
    given: argparse.Namespace, case: Case, facts: Facts, folder: Path
) -> dict[str, list[Stage]]:
    """The stages of each way to train the student."""
    fresh = case.student if isinstance(case.student, dict) else {}
    first = cut(case.student, facts) if isinstance(case.student, str) else []
    taught = Distill(
        smaller=fresh,
        temperature=given.temperature,
        alpha=given.alpha,
        recover=Recover(case.training),
    )
    alone = replace(taught, alpha=0.0)  # the labels' cross-entropy, and nothing else
    lasts: list[Stage] = [alone, taught]
    if case.texts:
        more = without_labels(folder, case)
        longer = Recover(case.training, epochs=LONGER * case.training.epochs)
        lasts += [replace(alone, recover=longer), replace(taught, unlabelled=more)]
    return {name: [*first, last] for name, last in zip(AGAINST, lasts, strict=False)}


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
    for name in scores:
        if other := AGAINST[name]:
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
    parser.add_argument("--case", choices=list(CASES), default="digits")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--alpha", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        scores, whole, equal = run(given, CASES[given.case], Path(folder))
    show(scores)
    Console().print(f"the teacher itself, all blocks: {whole:.4f}")
    sys.stdout.write(json.dumps(cases(scores, equal)) + "\n")


def run(
    given: argparse.Namespace, case: Case, folder: Path
) -> tuple[dict[str, list[float]], float, bool]:
    """(each arm's accuracies, the teacher's, whether the naive path gives the same weights)."""
    model = fine_tuned(folder, case)
    first = open_bench(bench_spec(folder, case, model))
    whole = first.fork().measure(["accuracy"], "held_out").values["accuracy"]
    ways = arms(given, case, facts_of(first.fork()), folder)
    scores: dict[str, list[float]] = {name: [] for name in ways}
    weights = dict[str, str]()
    for seed in range(given.seeds):
        base = open_bench(bench_spec(folder, case, model, seed))
        for name, stages in ways.items():
            found, weights[name] = accuracy(base, stages)
            scores[name].append(found)
    plain = open_bench(bench_spec(folder, case, model, given.seeds - 1, naive=True))
    again = accuracy(plain, ways["labels, teacher"])[1]
    return scores, whole, again == weights["labels, teacher"]


if __name__ == "__main__":
    main(sys.argv[1:])
