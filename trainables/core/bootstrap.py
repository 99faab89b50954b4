"""How sure a number is, and whether one model is better than another on the same items.

Items are drawn with replacement, again and again, and the metric is computed anew from the sums of
each draw (the percentile bootstrap; Efron and Tibshirani 1993). Paired: two models are compared on
the same draws, so that what makes an item hard for both falls out (Koehn 2004). The same seed
gives the same draws, on every machine.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.core.errors import MetricError
from trainables.core.scores import Floats, ItemScores, Scores

DRAWS = 2000
LEVEL = 0.95
_AT_ONCE = 1_000_000  # drawn items held in memory at one time


class Interval(NamedTuple):
    """A number, and where it lies with the level's confidence."""

    value: float
    low: float
    high: float


class Paired(NamedTuple):
    """One model beside another on the same items.

    Attributes:
        difference: of the numbers, the first less the second.
        ratio: of the numbers; not a number where the second is zero.
        below: share of draws in which the first number is the smaller one; ties count half.
    """

    difference: Interval
    ratio: Interval
    below: float


def interval(
    metric: str, scores: Scores, *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """A metric's number with its interval."""
    given = scores[metric]
    return _interval(given.total(), drawn(given, draws=draws, seed=seed), level)


def paired(
    metric: str,
    one: Scores,
    other: Scores,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Paired:
    """A metric of one model beside the same of another.

    Raises:
        MetricError: the two were not measured on the same items.
    """
    mine, theirs = pair(metric, one, other)
    a, b = drawn(mine, draws=draws, seed=seed), drawn(theirs, draws=draws, seed=seed)
    totals = mine.total(), theirs.total()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _interval(float(np.divide(*totals)), a / b, level)
    difference = _interval(totals[0] - totals[1], a - b, level)
    return Paired(difference, ratio, float(((a < b) + 0.5 * (a == b)).mean()))


def pair(metric: str, one: Scores, other: Scores) -> tuple[ItemScores, ItemScores]:
    """Two models' scores of one metric, made sure to be of the same items."""
    mine, theirs = one[metric], other[metric]
    if one.fingerprint != other.fingerprint or len(mine) != len(theirs) or mine.rule != theirs.rule:
        raise MetricError(
            f"{metric} was not measured on the same items",
            got=[f"{len(mine)} of {one.fingerprint}", f"{len(theirs)} of {other.fingerprint}"],
        )
    return mine, theirs


def drawn(scores: ItemScores, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """The metric's number on each draw, [draws]; the same draws for scores of as many items."""
    table, items = scores.table(), len(scores)
    step = max(1, _AT_ONCE // max(items, 1))
    with np.errstate(invalid="ignore", over="ignore"):  # of items that are no numbers
        found = [
            scores.number(_weights(items, min(step, draws - start), seed, start) @ table, items)
            for start in range(0, draws, step)
        ]
    return np.concatenate(found)


@lru_cache(maxsize=4)
def _weights(items: int, draws: int, seed: int, start: int) -> Floats:
    """How often each draw has each item, [draws, items]."""
    random = np.random.Generator(np.random.PCG64([seed, items, start]))
    chosen = random.integers(items, size=(draws, items))
    places: NDArray[np.int64] = chosen + items * np.arange(draws)[:, None]
    counted = np.bincount(places.ravel(), minlength=draws * items)
    return counted.reshape(draws, items).astype(float)


def _interval(value: float, found: Floats, level: float) -> Interval:
    side = (1 - level) / 2
    known = found[np.isfinite(found)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, [side, 1 - side])
    return Interval(value, float(low), float(high))
