"""Racing: whether a trial can still win, judged on the items seen so far.

The items are looked at in growing shares, in one fixed order. After each the trial is held against
the untouched model and the front on the same items (a race in the sense of Maron and Moore 1994 and
of irace, López-Ibáñez et al. 2016, with a paired bootstrap for its test). It is out where in every
one of the draws, and by four of their standard deviations, it misses a constraint or is worse than
one and the same model in all that the study wants. What costs nothing to know, such as its size, is
known exactly, and first. A trial that stays in is measured whole, by the very passes it would have
had without.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainables.core.bootstrap import drawn
from trainables.core.scores import Floats, ItemScores, Scores, from_text

LEAST = 16  # items, before anything is beyond doubt
APART = 4.0  # standard deviations of the draws
TOLERANCE = 1e-9  # of a limit, as constraints have it


@dataclass(frozen=True)
class Limit:
    """A constraint: `factor * baseline + offset` is what the metric is held against."""

    metric: str
    at_most: bool
    factor: float
    offset: float
    text: str

    def excess(self, value: Floats | float, baseline: Floats | float) -> Floats:
        """By how much it is missed; below zero where it holds."""
        limit = self.factor * np.asarray(baseline) + self.offset
        over = np.asarray(value) - limit if self.at_most else limit - np.asarray(value)
        found: Floats = over - TOLERANCE * np.abs(limit)
        return found


@dataclass(frozen=True)
class Rival:
    """A model that was measured whole: its number, metrics, and what its items scored."""

    number: int
    metrics: Mapping[str, float]
    scores: str  # `Scores.text`

    @property
    def name(self) -> str:
        return f"trial {self.number}" if self.number else "the untouched model"


@dataclass(frozen=True)
class Race:
    """What a trial runs against.

    Attributes:
        front: whom it may lose to; the untouched model is among them where it is on the front.
        first: the share of items that is looked at first; it grows by `factor`.
    """

    objectives: Mapping[str, str]  # metric -> min or max
    limits: Sequence[Limit]
    baseline: Rival
    front: Sequence[Rival] = ()
    first: float = 0.125
    factor: float = 2.0

    @property
    def watched(self) -> set[str]:
        """The metrics that decide."""
        return {*self.objectives, *(limit.metric for limit in self.limits)}


class OutOfRace(Exception):
    """A trial cannot win any more.

    Attributes:
        reason: for people.
        seen: metric -> what it would have come to, by what was seen.
        share: of the items that were looked at.
    """

    def __init__(self, reason: str, seen: Mapping[str, float], share: float) -> None:
        super().__init__(reason)
        self.reason, self.seen, self.share = reason, dict(seen), share


def shares(batches: int, first: float, factor: float) -> Iterator[list[int]]:
    """Growing shares of a role's batches, in an order that depends on their number alone; without
    the last share, which is all of them."""
    order = np.random.Generator(np.random.PCG64([batches])).permutation(batches).tolist()
    size = first * batches
    while (count := math.ceil(size)) < batches:
        yield sorted(order[:count])
        size *= factor


@dataclass
class Runner:
    """One trial in a race."""

    race: Race
    costs: Mapping[str, float]  # what is known exactly
    seen: dict[str, ItemScores] = field(default_factory=dict)  # of the items looked at
    items: Sequence[int] = ()  # their places in the role
    share: float = 0.0

    def __post_init__(self) -> None:
        rivals = (self.race.baseline, *self.race.front)
        self._scores = {one.number: from_text(one.scores) for one in rivals if one.scores}

    def look(self, items: Sequence[int], of: int, seen: Mapping[str, ItemScores]) -> None:
        """Judge by so many items.

        Raises:
            OutOfRace: the trial cannot win.
        """
        self.items, self.share, self.seen = items, len(items) / of, dict(seen)
        for limit in self.race.limits:
            if self._misses(limit):
                self._out(f"misses {limit.text}", self.race.baseline)
        for rival in self.race.front:
            if self._beaten(rival):
                self._out(f"worse than {rival.name}", rival)

    def _misses(self, limit: Limit) -> bool:
        base = self.race.baseline
        if limit.metric in self.costs:
            reference = base.metrics.get(limit.metric, 0.0)
            return bool(limit.excess(self.costs[limit.metric], reference) > 0)
        if limit.metric not in self.seen or limit.metric not in self._of(base):
            return False
        against = self._drawn(base, limit.metric)
        return self._sure(limit.excess(drawn(self.seen[limit.metric]), against))

    def _beaten(self, rival: Rival) -> bool:
        """Whether a rival is at least as good in everything, and better in something."""
        worse = False
        for name, way in self.race.objectives.items():
            sign = 1.0 if way == "min" else -1.0
            if name in self.costs and name in rival.metrics:
                behind = sign * (self.costs[name] - rival.metrics[name])
                if behind < 0:
                    return False
                worse |= behind > 0
            elif name in self.seen and name in self._of(rival):
                if not self._sure(sign * (drawn(self.seen[name]) - self._drawn(rival, name))):
                    return False
                worse = True
            else:
                return False
        return worse

    def _of(self, rival: Rival) -> Scores:
        return self._scores.get(rival.number, Scores("", {}))

    def _drawn(self, rival: Rival, metric: str) -> Floats:
        return drawn(self._of(rival)[metric].take(self.items))

    def _sure(self, behind: Floats) -> bool:
        """Whether draws are above zero beyond doubt."""
        if len(self.items) < LEAST or not np.isfinite(behind).all():
            return False
        return bool(behind.min() > 0 and behind.mean() > APART * behind.std())

    def _out(self, why: str, rival: Rival) -> None:
        when = f"after {self.share:.0%} of the items" if self.items else "before any item"
        raise OutOfRace(f"{when}: {why}", self._estimate(rival), self.share)

    def _estimate(self, rival: Rival) -> dict[str, float]:
        """What the metrics would come to: as far from a rival's as on what was seen."""
        found = {**self.race.baseline.metrics, **self.costs}
        for name, scores in self.seen.items():
            if name in rival.metrics and name in self._of(rival):
                theirs = self._of(rival)[name].take(self.items).total()
                found[name] = rival.metrics[name] + scores.total() - theirs
                if theirs > 0 and scores.total() >= 0:
                    found[name] = rival.metrics[name] * scores.total() / theirs
        return {name: float(found[name]) for name in self.race.watched if name in found}
