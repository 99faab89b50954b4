"""Stage 4 of a routing study as a table: each way of choosing a set, judged on held-out items.

A likelihood that is no finite number counts as the worst that was seen; an answer chosen by none
is wrong.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from trainables.routing.examples import finite_rows, in_words

Row: TypeAlias = dict[str, float]
ORACLE, RANDOM, ROUTER = "oracle over sets", "random set", "router"
STATIC, HINDSIGHT = "best static set, by training items", "best static set, in hindsight"
MAJORITY = "set most often best in training"
DENSE = "dense model"


@dataclass(frozen=True)
class Judged:
    """One item: for every set, whether it answers right and how likely the right answer is."""

    task: str
    prompt: str
    right: tuple[bool, ...]
    likelihood: tuple[float, ...]
    dense: bool


def judge(record: Mapping[str, Any], normalised: bool) -> Judged:
    """Read a record of `RouteWork.likelihoods` whose last set is the empty one."""
    right = []
    for means in record["scores"]:
        sums = [mean * tokens for mean, tokens in zip(means, record["tokens"], strict=True)]
        if normalised:
            sums = [s / max(1, n) for s, n in zip(sums, record["characters"], strict=True)]
        right.append(_likeliest(sums) == record["answer"])
    likelihood = tuple(record["likelihood"][:-1])
    return Judged(record["task"], record["prompt"], tuple(right[:-1]), likelihood, right[-1])


def _likeliest(sums: Sequence[float]) -> int | None:
    """The first of the highest; None where no choice has a finite number."""
    finite = [value for value in sums if math.isfinite(value)]
    return sums.index(max(finite)) if finite else None


@dataclass
class Evaluation:
    """The table: for every policy its accuracy per task, their mean, likelihood and regret.

    Attributes:
        replaced: likelihoods that are no finite numbers, and count as the worst.
        dropped: items without any, which likelihood and regret leave out.
        harness: the same ways by the tasks of lm-evaluation-harness, where the study names some.
    """

    rows: dict[str, Row]
    tasks: list[str]
    router_share: dict[int, float] = field(default_factory=dict)  # how often each set is chosen
    replaced: int = 0
    dropped: int = 0
    harness: dict[str, Row] = field(default_factory=dict)

    @property
    def beats_static(self) -> bool:
        """Whether the router is worth having."""
        return self.rows[ROUTER]["mean"] > self.rows[HINDSIGHT]["mean"]

    def told(self) -> str:
        """What was not as it should be; empty where all was."""
        return in_words(self.replaced, self.dropped)

    def verdict(self) -> str:
        """In words."""
        mine, best = self.rows[ROUTER]["mean"], self.rows[HINDSIGHT]["mean"]
        word = "beats" if self.beats_static else "does not beat"
        return f"the router {word} the best static set: {mine:.2%} against {best:.2%}"


def evaluate(
    items: Sequence[Judged], chosen: Sequence[int], training: Sequence[Sequence[float]]
) -> Evaluation:
    """Judge every policy.

    Args:
        chosen: the router's set for each item.
        training: the likelihoods of the router's training items, by which static sets are chosen.
    """
    rows, replaced, dropped = finite_rows([item.likelihood for item in items])
    items = [replace(item, likelihood=row) for item, row in zip(items, rows, strict=True)]
    sets = range(len(items[0].right))
    hindsight = max(
        sets, key=lambda s: _accuracy(items, [float(i.right[s]) for i in items])["mean"]
    )
    picks = {ROUTER: list(chosen)} | {
        name: [index] * len(items)
        for name, index in ({HINDSIGHT: hindsight} | by_training(training)).items()
    }
    table = {DENSE: _accuracy(items, [float(item.dense) for item in items])}
    table |= {name: _policy(items, pick) for name, pick in picks.items()}
    right = [sum(item.right) / len(item.right) for item in items]
    table[RANDOM] = _row(items, right, [_mean(item.likelihood) for item in _numbered(items)])
    best = [max(item.likelihood) for item in _numbered(items)]
    table[ORACLE] = _row(items, [float(any(item.right)) for item in items], best)
    share = Counter(chosen)
    return Evaluation(
        table,
        sorted({item.task for item in items}),
        {index: count / len(items) for index, count in sorted(share.items())},
        replaced,
        dropped,
    )


def by_training(training: Sequence[Sequence[float]]) -> dict[str, int]:
    """The ways that choose one set for all prompts, by the likelihoods of the training items."""
    rows = [row for row in finite_rows(training)[0] if row]
    sets = range(len(rows[0]))
    often = Counter(max(sets, key=lambda s: row[s]) for row in rows)
    return {
        STATIC: max(sets, key=lambda s: sum(row[s] for row in rows)),
        MAJORITY: often.most_common(1)[0][0],
    }


def _numbered(items: Sequence[Judged]) -> list[Judged]:
    return [item for item in items if item.likelihood]


def _policy(items: Sequence[Judged], pick: Sequence[int]) -> Row:
    pairs = list(zip(items, pick, strict=True))
    right = [float(item.right[index]) for item, index in pairs]
    return _row(items, right, [item.likelihood[index] for item, index in pairs if item.likelihood])


def _row(items: Sequence[Judged], right: Sequence[float], likelihood: Sequence[float]) -> Row:
    """Args: likelihood: of the items that have any."""
    found = _accuracy(items, right)
    if not likelihood:
        return found
    best = [max(item.likelihood) for item in _numbered(items)]
    regret = _mean(b - mine for b, mine in zip(best, likelihood, strict=True))
    return found | {"likelihood": _mean(likelihood), "regret": regret}


def _accuracy(items: Sequence[Judged], right: Sequence[float]) -> Row:
    tasks: dict[str, list[float]] = {}
    for item, value in zip(items, right, strict=True):
        tasks.setdefault(item.task, []).append(value)
    by_task = {task: _mean(values) for task, values in sorted(tasks.items())}
    return by_task | {"mean": _mean(by_task.values())}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def speed(timing: Mapping[str, float]) -> Row:
    """Speed-ups with the router's time included, and weights relative to the dense model's."""
    found = {
        f"{part}_speedup": timing[f"dense_{part}"] / (timing["router"] + timing[f"pruned_{part}"])
        for part in ("prefill", "generation")
    }
    resident = timing["dense_bytes"] + timing["router_bytes"]
    return found | {
        "router_share_of_prefill": timing["router"] / (timing["router"] + timing["pruned_prefill"]),
        "resident_bytes": resident,
        "active_bytes": timing["pruned_bytes"] + timing["router_bytes"],
        "dense_bytes": timing["dense_bytes"],
    }
