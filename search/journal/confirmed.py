"""What held-out data says of trials, as the journal keeps it: one note per trial, written once.

The search chose among trials by its own items, and so by their luck as well: what it found looks
better there than it is. Held-out items chose nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from search.journal.results import Result
from search.study.constraints import Constraint
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.bootstrap import drawn, pair
from trainables.core.scores import Scores

NOTE = "held_out/"  # and the trial's number: a note of the study
LEVEL = 0.95
Verdict = Literal["certain", "likely", "missed"]


@dataclass(frozen=True)
class Change:
    """How far a metric is from the untouched model's: in percent of it, or for shares, less it.

    Attributes:
        low: with `high`, where it lies in 95 % of the draws of the same items for both; None for
            what is not measured on items.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Confirmed:
    """A trial on held-out data.

    Attributes:
        changes: metric -> its change against the untouched model.
        limits: constraint -> whether it holds. `certain`: in 97.5 % of the draws, `likely`: by the
            number itself, which draws put in doubt; else it is `missed`.
    """

    number: int
    metrics: Mapping[str, float]
    changes: Mapping[str, Change]
    limits: Mapping[str, Verdict]

    @property
    def feasible(self) -> bool:
        return "missed" not in self.limits.values()

    @property
    def verdict(self) -> Verdict | None:
        """The worst of its constraints'; None where there are none."""
        found = [one for one in ("missed", "likely", "certain") if one in self.limits.values()]
        return found[0] if found else None  # type: ignore[return-value]


def confirmed(notes: Mapping[str, Any]) -> dict[int, Confirmed]:
    """What a study's notes say, by number."""
    found = {}
    for key, note in notes.items():
        if key.startswith(NOTE) and key.removeprefix(NOTE).isdigit():
            number = int(key.removeprefix(NOTE))
            changes = {name: Change(**one) for name, one in note["changes"].items()}
            found[number] = Confirmed(number, note["metrics"], changes, note["limits"])
    return dict(sorted(found.items()))


def holding(known: Mapping[int, Confirmed], objectives: Mapping[str, str]) -> set[int]:
    """The numbers of those that miss no constraint, and that no other one so beats, by held-out
    data."""
    meeting = {
        number: [
            one.metrics[name] * (1 if way == "min" else -1) for name, way in objectives.items()
        ]
        for number, one in known.items()
        if one.feasible
    }
    return {
        number
        for number, own in meeting.items()
        if not any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True))
            for other in meeting.values()
        )
    }


def flattered(result: Result, base: Result, one: Confirmed, metric: str, way: str) -> float | None:
    """By how much the search's change was rosier than the held-out one, in the same unit; below
    zero where it was too dark. None for what does not depend on items."""
    fact = METRIC_FACTS.get(metric)
    if result.is_baseline or metric not in one.changes or (fact and fact.on != "items"):
        return None
    if metric not in result.metrics or metric not in base.metrics:
        return None
    searched = change_of(metric, result.metrics[metric], base.metrics[metric])
    darker = one.changes[metric].value - searched
    return darker if way == "min" else -darker


# -- making them ---------------------------------------------------------------------------------


def in_percent(metric: str) -> bool:
    """Whether a metric's change is told in percent; that of a share is a difference."""
    fact = METRIC_FACTS.get(metric)
    return fact is None or fact.unit != "share"


def change_of(metric: str, value: float, base: float) -> float:
    """A change, in the metric's way of telling it."""
    if not in_percent(metric):
        return value - base
    return 100 * (value - base) / abs(base) if base else 0.0


def note_of(
    metrics: Mapping[str, float],
    scores: Scores,
    base: Mapping[str, float],
    base_scores: Scores,
    limits: Sequence[Constraint],
) -> dict[str, Any]:
    """What the journal is to keep of a model measured on held-out data, beside the untouched one.

    Args:
        scores: what each held-out item scored.
    """
    changes = {
        name: vars(_change(name, value, scores, base[name], base_scores))
        for name, value in metrics.items()
        if name in base
    }
    judged = {limit.key: _verdict(limit, metrics, scores, base, base_scores) for limit in limits}
    return {
        "metrics": dict(metrics),
        "changes": changes,
        "limits": judged,
        "scores": scores.text(),
    }


def _change(name: str, value: float, scores: Scores, base: float, base_scores: Scores) -> Change:
    told = change_of(name, value, base)
    if name not in scores or name not in base_scores:
        return Change(told)
    mine, theirs = (drawn(one) for one in pair(name, scores, base_scores))
    found = mine - theirs
    if in_percent(name):
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(theirs != 0, 100 * found / np.abs(theirs), 0.0)
    side = (1 - LEVEL) / 2
    low, high = np.quantile(found, [side, 1 - side])
    return Change(told, float(low), float(high))


def _verdict(
    limit: Constraint,
    metrics: Mapping[str, float],
    scores: Scores,
    base: Mapping[str, float],
    base_scores: Scores,
) -> Verdict:
    name = limit.metric
    if limit.violation(metrics[name], base.get(name)) > 0:
        return "missed"
    if name not in scores or (limit.relative and name not in base_scores):
        fact = METRIC_FACTS.get(name)
        return "certain" if fact is not None and fact.on == "weights" else "likely"
    values = drawn(scores[name])
    against = drawn(pair(name, scores, base_scores)[1]) if limit.relative else values
    holds = [limit.violation(a, b) <= 0 for a, b in zip(values, against, strict=True)]
    return "certain" if np.mean(holds) >= 1 - (1 - LEVEL) / 2 else "likely"
