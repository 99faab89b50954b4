"""What the trials of a study tell of points that were not tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from random import Random

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.samplers.around import miss, undominated
from search.samplers.bayesian.features import Columns, Described, Floats, describe
from search.samplers.bayesian.gain import gains, normals
from search.samplers.bayesian.surrogate import Models, fit
from search.samplers.points import Point

LEARNED = 128  # trials that the models see at most: the front, the best others, and any
# Shares of a deviation, by turns: with the whole of it, early trials go after what is least known.
BOLD = (0.5, 0.5, 0.5, 1.0)
MARGIN = 0.05  # of the range of what is feasible, by which the corner lies beyond it
RIGHT = 1e-6  # of the range: a constraint that is an objective, seen otherwise


@dataclass(frozen=True)
class Seen:
    """A trial as the models see it; `missed` is by how much it misses the constraints. All is
    worked out once, as every proposal looks at every trial."""

    trial: FrozenTrial
    point: Point
    identity: str
    described: Described
    constraints: Mapping[str, float]
    missed: float
    done: bool
    bad: bool
    values: Sequence[float]

    @classmethod
    def of(cls, trial: FrozenTrial, point: Point) -> "Seen":
        done = trial.state == TrialState.COMPLETE
        bad = trial.state in (TrialState.FAIL, TrialState.PRUNED)
        told, limits = describe(point), trial.constraints
        values = trial.values if done else ()
        return cls(trial, point, point.identity, told, limits, miss(limits), done, bad, values)


class Evidence:
    """The trials of a study, by what can be learned from them.

    Attributes:
        front: what no other feasible trial is better than; where none is feasible, the nearest.
        learned: those that the models see.
        parents: where it is worth to look around.
    """

    def __init__(
        self,
        seen: Sequence[Seen],
        directions: Sequence[StudyDirection],
        baseline: Sequence[float] | None,
        rng: Random,
    ) -> None:
        self.signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions])
        self.baseline = None if baseline is None else self.signs * np.array(baseline)
        done = [one for one in seen if one.done]
        least = min(one.missed for one in done)
        right = [one for one in done if one.missed <= least]
        values = np.array([one.values for one in right]) * self.signs
        best = undominated(values)
        self.front = [one for one, good in zip(right, best, strict=True) if good]
        chosen = set(map(id, self.front))
        others = [one for one in reversed(done) if id(one) not in chosen]
        rest = sorted(others, key=attrgetter("missed"))  # equal ones as they are: the last first
        room = max(0, LEARNED - len(self.front)) // 2
        some = rng.sample(rest[room:], min(len(rest[room:]), room))
        self.learned = [*self.front[:LEARNED], *rest[:room], *some]
        near = rest[: max(3, len(self.front) // 2)]
        self.parents = [one.point for one in (*self.front, *self.front, *near)]
        self.bad = [one for one in seen if one.bad]
        self.running = [one for one in seen if not (one.done or one.bad)]
        self.feasible = least <= 0
        self.turn = len(seen)

    @property
    def scores(self) -> Floats:
        """[learned, objectives], as they were measured."""
        return np.array([one.values for one in self.learned], dtype=float)

    @cached_property
    def misses(self) -> Floats:
        """[learned, constraints]: by how much each is missed."""
        keys = list(dict.fromkeys(key for one in self.learned for key in one.constraints))
        rows = [[one.constraints.get(key, 0.0) for key in keys] for one in self.learned]
        return np.array(rows, dtype=float).reshape(len(self.learned), len(keys))


class Judge:
    """Models of every metric, and what a point is worth by them.

    Args:
        others: described points that will be judged, or such as they.
    """

    def __init__(self, evidence: Evidence, others: Sequence[Described]) -> None:
        self.evidence = evidence
        told = [one.described for one in (*evidence.learned, *evidence.bad, *evidence.running)]
        self.columns = Columns([*told, *others])
        known = self.columns.table([one.described for one in evidence.learned])
        scores, misses = evidence.scores, evidence.misses
        self.derived = [_derived(scores, column) for column in misses.T]
        own = [at for at, found in enumerate(self.derived) if found is None]
        self.models = fit(known, np.hstack([scores, misses[:, own]]))
        self.normal = normals(len(self.models)) * BOLD[evidence.turn % len(BOLD)]
        self.trust = self._trust()
        self.corner, self.best = self._corner(scores), self._front()

    def worth(self, described: Sequence[Described]) -> Floats:
        """[points]: what each is expected to add, within the constraints."""
        drawn, missed = self._draws(described)
        if not self.evidence.feasible:  # get there first
            worth = -sum(
                (np.maximum(one, 0.0).mean(axis=1) for one in missed), np.zeros(len(drawn))
            )
        else:
            inside = np.prod([one <= 0 for one in missed], axis=0) if missed else 1.0
            added: Floats = gains(drawn, self.best, self.corner) * inside
            worth = added.mean(axis=1) * self._holds(described)
        return worth

    def _trust(self) -> Models | None:
        """How likely points are to come to a result, where some trials did not."""
        evidence = self.evidence
        if not evidence.bad:
            return None
        seen = [*evidence.learned, *evidence.bad[-LEARNED // 4 :]]
        came = np.array([[float(one.done)] for one in seen])
        return fit(self.columns.table([one.described for one in seen]), came)

    def _holds(self, described: Sequence[Described]) -> Floats | float:
        if self.trust is None:
            return 1.0
        (told,) = self.trust.at(self.columns.table(described))
        over = np.clip((told.mean - 0.5) / told.deviation, -18.0, 18.0)
        likely: Floats = 1.0 / (1.0 + np.exp(-1.702 * over))  # the normal distribution, nearly
        return likely

    def _draws(self, described: Sequence[Described]) -> tuple[Floats, list[Floats]]:
        """[points, draws, objectives], less being better, and [points, draws] per constraint."""
        asked = self.columns.table(described)
        drawn = [one.draw(n) for one, n in zip(self.models.at(asked), self.normal, strict=True)]
        count = len(self.evidence.signs)
        scores, rest = np.stack(drawn[:count], axis=2), iter(drawn[count:])
        missed = [
            next(rest) if found is None else found[1] * scores[:, :, found[0]] + found[2]
            for found in self.derived
        ]
        return scores * self.evidence.signs, missed

    def _corner(self, scores: Floats) -> Floats:
        """Beyond what is feasible; where a constraint limits an objective, at that limit."""
        signs, baseline = self.evidence.signs, self.evidence.baseline
        right = (self.evidence.misses <= 0).all(axis=1) | (not self.evidence.feasible)
        values = scores[right] * signs
        if baseline is not None:
            values = np.vstack([values, baseline])
        high, low = values.max(axis=0), values.min(axis=0)
        spread = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
        corner: Floats = high + MARGIN * spread
        for at, slope, start in filter(None, self.derived):
            if slope * signs[at] > 0:
                corner[at] = -start / slope * signs[at]
        return corner

    def _front(self) -> Floats:
        """[members, objectives]: the front, with what trials that run are expected to score."""
        evidence = self.evidence
        values = [np.array(one.values) * evidence.signs for one in evidence.front]
        if evidence.running:
            drawn, missed = self._draws([one.described for one in evidence.running])
            likely = (
                np.prod([one <= 0 for one in missed], axis=0)
                if missed
                else np.ones_like(drawn[:, :, 0])
            )
            right = likely.mean(axis=1) > 0.5
            values += list(drawn.mean(axis=1)[right])
        found = np.array(values).reshape(-1, len(evidence.signs))
        return np.unique(found[undominated(found)], axis=0)


def _derived(scores: Floats, missed: Floats) -> tuple[int, float, float] | None:
    """The objective that a constraint is about, and by which line; None where it is of another
    metric."""
    for at, column in enumerate(scores.T):
        low, high = int(column.argmin()), int(column.argmax())
        if column[low] == column[high]:
            continue
        slope = (missed[high] - missed[low]) / (column[high] - column[low])
        start = missed[low] - slope * column[low]
        wrong = np.abs(slope * column + start - missed).max()
        if slope and wrong <= RIGHT * (np.abs(missed).max() + 1e-12):
            return at, float(slope), float(start)
    return None
