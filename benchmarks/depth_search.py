"""Greedy, level-switch evolution and TPE at equal work, on SmolLM2-135M: which finds better sets?

    python -m benchmarks.depth_search [--seeds 3] [--to runs/depth-search]

Each looks for 6 of 30 blocks to omit by the perplexity loss of 4 x 64 tokens of BBC news. Greedy
runs to its end; the others get as many block-forwards, start from the ranking by block influence,
and share prefixes within each batch of 16 proposals, as greedy does within each step. A seed is a
draw of calibration text and of the samplers' randomness. What was found is also judged on other
text. Writes curves.json, curves.png, and report.html with the table and the plot.

Fetches asset:smollm2-135m and asset:bbc-news (96 MB). The last line is JSON.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.curves import Curve, summary, table, write_curves, write_page
from search.samplers.level_switch import LevelSwitchSampler
from trainables.bench.assets.fetch import fetch
from trainables.bench.data.roles import load_data
from trainables.core.spec import DataSpec, ItemCounts
from trainables.core.types import Batch
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator
from trainables.omission.method import Omission
from trainables.omission.searches import Omit, greedy, lowest

BUDGET, BATCH = 6, 16
MOST = 2000  # proposals, should a sampler only repeat what is known
NAME = "omission.skip"


@dataclass
class Watched:
    """A score that notes the best loss so far against the block-forwards spent."""

    evaluator: PrefixEvaluator
    curve: list[tuple[int, float]] = field(default_factory=list)
    best: tuple[float, Omit] = (float("inf"), ())
    known: dict[Omit, float] = field(default_factory=dict)

    def __call__(self, sets: Sequence[Omit]) -> list[float]:
        keys = [tuple(sorted(omit)) for omit in sets]
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        self.known |= dict(zip(new, self.evaluator(new), strict=True))
        complete = [(self.known[key], key) for key in keys if len(key) == BUDGET]
        self.best = min([self.best, *complete])
        if complete:
            self.curve.append((self.evaluator.forwards, self.best[0]))
        return [self.known[key] for key in keys]


def by_greedy(score: Watched, ranking: Omit, spend: int, seed: int) -> None:
    """The published search."""
    greedy(score.evaluator.count, BUDGET, score)


def by_sampler(make: Callable[[int], BaseSampler]) -> Callable[[Watched, Omit, int, int], None]:
    """An Optuna sampler, asked for a batch of proposals at a time."""

    def search(score: Watched, ranking: Omit, spend: int, seed: int) -> None:
        study = optuna.create_study(sampler=make(seed))
        first = ranking[:BUDGET]
        start = {f"{NAME}.{n:02d}": int(n in first) for n in sorted(ranking)}
        study.enqueue_trial(start)
        while score.evaluator.forwards < spend and len(study.trials) < MOST:
            trials = [study.ask() for _ in range(BATCH if score.curve else 1)]
            sets = [exact(chosen(trial, ranking), ranking) for trial in trials]
            for trial, loss in zip(trials, score(sets), strict=True):
                study.tell(trial, loss)

    return search


def chosen(trial: optuna.Trial, free: Omit) -> Omit:
    """One 0/1 per block that may go."""
    return tuple(n for n in sorted(free) if trial.suggest_int(f"{NAME}.{n:02d}", 0, 1))


def exact(picked: Omit, ranking: Omit) -> Omit:
    """As many blocks as wanted: surplus ones stay, missing ones go, by influence."""
    order = sorted(ranking, key=lambda n: (n not in picked, ranking.index(n)))
    return tuple(sorted(order[:BUDGET]))


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _switch(seed: int) -> BaseSampler:
    return LevelSwitchSampler(seed, drop=BUDGET, offspring=BATCH)


METHODS: dict[str, Callable[[Watched, Omit, int, int], None]] = {
    "greedy": by_greedy,
    "level-switch": by_sampler(_switch),
    "TPE": by_sampler(_tpe),
}


def compare(
    model: PreTrainedModel, texts: Callable[[int], list[Batch]], seed: int
) -> Iterator[Curve]:
    """All methods on one draw of calibration text."""
    calibration, other = texts(seed)
    judge = PrefixEvaluator(model, losses.ppl([other]))
    influence = Omission.calibrate(model, [calibration])["influence"].tolist()
    ranking = lowest(influence, 28, fixed={0, 29})
    spend = 0
    for name, search in METHODS.items():
        score = Watched(PrefixEvaluator(model, losses.ppl([calibration])))
        search(score, ranking, spend, seed)
        spend = spend or score.evaluator.forwards
        loss, omit = score.best
        sizes = len(score.known)
        yield Curve(name, seed, score.curve, loss, judge([omit])[0], omit, sizes)


def reader(tokenizer: Any, length: int) -> Callable[[int], list[Batch]]:
    """Calibration text and other text, by seed."""

    def texts(seed: int) -> list[Batch]:
        items = ItemCounts(calibration=4, train=1, search=1, held_out=12)
        spec = DataSpec(
            dataset="asset:bbc-news", task="language-modelling", items=items, max_length=length
        )
        data = load_data(spec, tokenizer, seed)
        rows = [torch.tensor([w.ids for w in data.items(r)]) for r in ("calibration", "held_out")]
        return [{"input_ids": row} for row in rows]

    return texts


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--length", type=int, default=64, help="tokens per window")
    parser.add_argument("--to", type=Path, default=Path("runs/depth-search"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = fetch("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = reader(AutoTokenizer.from_pretrained(folder), given.length)
    curves = [curve for seed in range(given.seeds) for curve in compare(model, texts, seed)]
    write_curves(curves, given.to)
    write_page(given.to, given.to / "report.html")
    Console(width=120).print(table(curves))
    sys.stdout.write(json.dumps(summary(curves)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
