"""Depth search against the published loops, on SmolLM2-135M: CPU time, work and equality.

    python -m benchmarks.depth [--repeats 5] [--case greedy]

Three cases: a greedy search that removes 4 of 30 blocks by perplexity (SLEB), an evolutionary
search of two generations of 32 offspring by KL divergence (EvoPress), and the scoring of 10
omission sets on questions with 4 choices (PuDDing). The baseline runs them as published: one
candidate, one row, all blocks that are left, all logits. Ours shares prefixes, batches rows, and
lets go of offspring that the first batches show not to beat their parent, on the same rows and
weights. Runs alternate; the ratio is of the medians of CPU time on one thread. `equal` says that
ours, given rows one by one too, returns the baseline's losses bit by bit and takes the same
decisions however it batches; `difference` is the largest relative difference that batching makes.
All runs in float32. The head, which says what the next token is, is a fifth of so small a model;
`without head` is the ratio of what else was done.

Fetches asset:smollm2-135m and asset:bbc-news (96 MB) on first use. The last line is JSON.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from trainables.bench.assets.fetch import fetch
from trainables.bench.data.prompts import Question
from trainables.bench.data.roles import load_data
from trainables.bench.models import structure as arch
from trainables.core.spec import DataSpec, ItemCounts
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator
from trainables.omission.losses import Loss, ScoredBatch
from trainables.omission.paths import path
from trainables.omission.searches import PUBLISHED, Omit, evolve, greedy

Losses = list[float]


@contextlib.contextmanager
def skipped(model: PreTrainedModel, omit: Sequence[int]) -> Iterator[None]:
    """The model without some blocks, as the published tools do it: for the moment only."""
    [stack] = arch.stacks(model)
    every = list(stack.blocks)
    kept = [block for number, block in enumerate(every) if number not in omit]
    setattr(stack.owner, stack.name, nn.ModuleList(kept))
    try:
        yield
    finally:
        setattr(stack.owner, stack.name, nn.ModuleList(every))


@dataclass
class Published:
    """Each candidate by itself, each row by itself."""

    model: PreTrainedModel
    loss: Loss  # of one row per batch
    forwards: int = 0

    def __post_init__(self) -> None:
        dense = self.loss.against_dense
        self.dense = [self._logits(scored) for scored in self.loss.batches] if dense else []

    def __call__(self, sets: Sequence[Omit], bound: float = math.inf) -> Losses:
        return [self.loss.total(means) for means in self.means(sets)]

    def means(self, sets: Sequence[Omit]) -> torch.Tensor:
        """The mean score of every group, for every set."""
        return torch.stack([self._candidate(omit) for omit in sets])

    def _candidate(self, omit: Omit) -> torch.Tensor:
        self.forwards += len(path(omit, len(arch.blocks(self.model))))
        scores = []
        with skipped(self.model, omit):
            for index, scored in enumerate(self.loss.batches):
                logits = self._logits(scored)
                scores.append(self._score(logits, index, scored))
        return self.loss.group_means(scores)

    @torch.no_grad()
    def _logits(self, scored: ScoredBatch) -> torch.Tensor:
        logits = self.model(input_ids=scored.batch["input_ids"], use_cache=False).logits
        picked: torch.Tensor = logits[scored.rows, scored.columns]
        return picked

    def _score(self, logits: torch.Tensor, index: int, scored: ScoredBatch) -> torch.Tensor:
        if not self.dense:
            return -nn.functional.cross_entropy(logits.float(), scored.targets, reduction="none")
        mine, wanted = (torch.log_softmax(x.float(), -1) for x in (logits, self.dense[index]))
        return nn.functional.kl_div(mine, wanted, log_target=True, reduction="none").sum(-1)


Scorer = PrefixEvaluator | Published


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    work: Callable[[Scorer], tuple[object, Losses]]  # -> (the decision, the losses behind it)
    batched: Loss
    single: Loss  # the same, one row at a time


def cases(tokenizer: Any) -> list[Case]:
    """The three comparisons, on real text."""
    text = windows(tokenizer, 8, 128)
    rows = [{"input_ids": row[None]} for row in text]
    pairs = [{"input_ids": part} for part in text.split(2)]
    items = cloze(tokenizer, 8)
    whole, alone = (
        losses.answers("tld", items, tokenizer, packed=packed, batch_size=size)
        for packed, size in ((True, 8), (False, 1))
    )
    return [
        Case(
            "greedy, 4 of 30 by ppl",
            removal,
            losses.ppl([{"input_ids": text[:4]}]),
            losses.ppl(rows[:4]),
        ),
        Case("evolution, 2 x 32 by kl", evolution, losses.kl(pairs), losses.kl(rows)),
        Case("10 sets x 4 choices", scoring, whole, alone),
    ]


def windows(tokenizer: Any, count: int, length: int) -> torch.Tensor:
    """Windows of running English."""
    items = ItemCounts(calibration=count, train=1, search=1, held_out=1)
    spec = DataSpec(
        dataset="asset:bbc-news", task="language-modelling", items=items, max_length=length
    )
    found = load_data(spec, tokenizer, seed=0).items("calibration")
    return torch.tensor([window.ids for window in found])


def cloze(tokenizer: Any, count: int) -> list[Question]:
    """Which of four goes on the text? The others are how other texts go on."""
    texts = windows(tokenizer, 4 * count, 58).tolist()
    starts, ends = ([tokenizer.decode(text[part]) for text in texts] for part in HALVES)
    picks = [[i, *((i + step * count) % len(texts) for step in (1, 2, 3))] for i in range(count)]
    return [Question(starts[pick[0]], tuple(ends[i] for i in pick), 0) for pick in picks]


HALVES = (slice(0, 48), slice(48, 58))


def removal(score: Scorer) -> tuple[object, Losses]:
    """Greedy search."""
    found = greedy(30, 4, score)
    return found.order, list(found.losses)


def evolution(score: Scorer) -> tuple[object, Losses]:
    """Two generations, from the least influential blocks on, as the method begins."""
    least = (12, 13, 14, 15, 16, 17, 25)
    found = list(evolve(least, [range(1, 29)], score, generations=2, offspring=32))
    return [omit for omit, _ in found], [loss for _, loss in found]


def scoring(score: Scorer) -> tuple[object, Losses]:
    """The log-likelihood of every choice under every set."""
    sets = [tuple(u if u < 30 else 28 for u in omit) for omit in PUBLISHED]
    means = score.means(sets)
    return means.reshape(10, -1, 4).argmax(-1).tolist(), means.flatten().tolist()


def compare(case: Case, model: PreTrainedModel, repeats: int) -> dict[str, Any]:
    """Run both, alternating."""
    seconds: dict[str, list[float]] = {"baseline": [], "ours": []}
    heads: dict[str, list[float]] = {"baseline": [], "ours": []}
    for _ in range(repeats):
        theirs, ours = Published(model, case.single), PrefixEvaluator(model, case.batched)
        ours.prepare()
        for name, scorer in (("baseline", theirs), ("ours", ours)):
            with head_time(model) as spent:
                started = time.process_time()
                result = case.work(scorer)
                seconds[name].append(time.process_time() - started)
            heads[name].append(sum(spent))
            decision, found = result
            if name == "baseline":
                wanted = result
    exact = case.work(PrefixEvaluator(model, case.single)) == wanted
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    head = {name: statistics.median(times) for name, times in heads.items()}
    rest = {name: medians[name] - head[name] for name in medians}
    return {
        **medians,
        "ratio": medians["baseline"] / medians["ours"],
        "equal": exact and decision == wanted[0],
        "bit_identical": exact,
        "difference": max(abs(a - b) / abs(b) for a, b in zip(found, wanted[1], strict=True)),
        "block_forwards": [theirs.forwards, ours.forwards],
        "head": [head["baseline"], head["ours"]],
        "without_head": rest["baseline"] / rest["ours"],
        "spread": {name: [min(times), max(times)] for name, times in seconds.items()},
    }


@contextlib.contextmanager
def head_time(model: PreTrainedModel) -> Iterator[list[float]]:
    """While open, notes the CPU seconds of every call of the head, of the model or a fork of it."""
    weight = model.get_output_embeddings().weight
    spent, begun = list[float](), list[float]()

    def is_head(module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) and module.weight.data_ptr() == weight.data_ptr()

    def before(module: nn.Module, _: Any) -> None:
        if is_head(module):
            begun.append(time.process_time())

    def after(module: nn.Module, *_: Any) -> None:
        if is_head(module):
            spent.append(time.process_time() - begun.pop())

    register = nn.modules.module
    hooks = [
        register.register_module_forward_pre_hook(before),
        register.register_module_forward_hook(after),
    ]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def show(rows: dict[str, dict[str, Any]], console: Console) -> None:
    """The table for people."""
    columns = ("baseline s", "ours s", "ratio", "without head", "block-forwards", "equal")
    table = Table("case", *columns, "difference")
    for name, row in rows.items():
        keys = ("baseline", "ours", "ratio", "without_head")
        numbers = [f"{row[key]:.2f}" for key in keys]
        work = "{:,} → {:,}".format(*row["block_forwards"])
        table.add_row(name, *numbers, work, str(row["equal"]), f"{row['difference']:.1e}")
    console.print(table)


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = fetch("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = {}
    for case in cases(tokenizer):
        if given.case in case.name:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            rows[case.name] = compare(case, model, given.repeats)
    show(rows, Console(width=120))
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
