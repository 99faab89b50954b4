"""A point from around the front, for a sampler that repeats itself."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.samplers.grid import grid_points
from search.samplers.points import Ask, Params, Point, Walker
from search.samplers.steps import draw, steps
from trainables.core.errors import UserError

WALKS = 2000  # points around the trials to look at, before all are listed
DRAWN = 500  # points at random


def around(
    ask: Ask,
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    known: Collection[str],
    rng: Random,
) -> Params | None:
    """A point whose stages nobody tried: one step from the front, else from the other trials, else
    anywhere; None where the space has no further one."""
    walker = Walker(ask)
    ranked = ranks(trials, directions)
    for place in (_near(walker, rank, rng) for rank in ranked):
        if (found := _new(islice(place, WALKS), known)) is not None:
            return found
    drawn = (walker.walk({}, lambda _, asked: draw(rng, asked)) for _ in range(DRAWN))
    return _new(drawn, known) or _new(_listed(walker, rng), known)


def _new(points: Iterable[Point | None], known: Collection[str]) -> Params | None:
    for point in points:
        if point is not None and point.key is not None and point.key not in known:
            return point.params
    return None


def _near(walker: Walker, trials: Sequence[FrozenTrial], rng: Random) -> Iterator[Point | None]:
    """The points one step away from any of some trials, in a random order."""
    walked = [walker.walk(one.params, lambda _, asked: draw(rng, asked)) for one in trials]
    found = [params for point in walked if point is not None for params in steps(point)]
    rng.shuffle(found)
    return (walker.walk(params, lambda _, asked: draw(rng, asked)) for params in found)


def _listed(walker: Walker, rng: Random) -> Iterator[Point | None]:
    """All points, where they can be listed."""
    points: list[Params] = []
    with contextlib.suppress(UserError):  # too many, or a continuous parameter
        points = grid_points(walker.ask)
    rng.shuffle(points)
    return (walker.walk(point, lambda _, asked: draw(rng, asked)) for point in points)


def ranks(
    trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection]
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The front of what is feasible (of the nearest, where nothing is), and the other trials."""
    tried = [one for one in trials if one.params]
    done = [one for one in tried if one.state == TrialState.COMPLETE]
    missed = [miss(one.constraints) for one in done]
    best = min(missed, default=0.0)
    right = [one for one, by in zip(done, missed, strict=True) if by <= best]
    values = np.array([signed(one, directions) for one in right]).reshape(len(right), -1)
    front = [one for one, good in zip(right, undominated(values), strict=True) if good]
    on_front = {one.number for one in front}
    return front, [one for one in tried if one.number not in on_front]


def undominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[points] of [points, objectives]: whether no other is better; less is better."""
    if values.shape[1:] == (2,) and len(values):
        return _stairs(values)
    good = np.ones(len(values), dtype=bool)
    for at in np.lexsort(values.T[::-1]) if len(values) else ():
        if good[at]:
            own = values[at]
            good &= ~((own <= values).all(axis=1) & (own < values).any(axis=1))
    return good


def _stairs(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The same of two objectives: by the first one, those that are lower in the second than all
    before, and their equals."""
    order = np.lexsort(values.T[::-1])
    ranked = values[order]
    lower = np.append(True, ranked[1:, 1] < np.minimum.accumulate(ranked[:-1, 1]))
    new = np.append(True, (ranked[1:] != ranked[:-1]).any(axis=1))
    good = np.empty(len(values), dtype=bool)
    good[order] = lower[new][np.cumsum(new) - 1]
    return good


def signed(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> tuple[float, ...]:
    """A trial's objectives, less being better."""
    return tuple(
        -value if direction == StudyDirection.MAXIMIZE else value
        for value, direction in zip(trial.values, directions, strict=True)
    )


def miss(constraints: Mapping[str, float]) -> float:
    """By how much a trial's constraints are missed, all together."""
    return sum(max(0.0, value) for value in constraints.values())
