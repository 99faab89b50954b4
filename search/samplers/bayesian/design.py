"""What to try before models can tell anything: a few points spread over all that is ordered.

A setting seen at fewer than three values says nothing of how its effect bends, and a model that
never saw it vary nothing at all. The points come from a Halton sequence (1960), which begins in the
middle and halves what is left; sets have the members that the space holds cheapest.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.samplers.points import Params, Point, Walker
from search.samplers.steps import at_share
from spaces import sets

FIRST = 4  # trials before anything is learned from them
VALUES = 3  # at which a setting should have been seen
MOST = 12  # trials, after which the models go on with what there is
BASES = (2, 3, 5, 7, 11, 13)


def lacking(seen: Sequence[Point]) -> bool:
    """Whether some setting was seen at too few values."""
    if len(seen) < FIRST:
        return True
    if len(seen) >= MOST:
        return False
    values: dict[str, set[Any]] = {}
    asked: dict[str, BaseDistribution] = {}
    for point in seen:
        for name in point.settings:
            values.setdefault(name, set()).add(point.params[name])
            asked[name] = point.asked[name]
    return any(len(values[name]) < min(VALUES, _values(one)) for name, one in asked.items())


def _values(asked: BaseDistribution) -> int:
    """How many values a setting has, at most `VALUES`."""
    if isinstance(asked, CategoricalDistribution):
        return min(2, len(asked.choices))
    assert isinstance(asked, IntDistribution | FloatDistribution)
    if asked.step is None or asked.high <= asked.low:
        return VALUES if asked.high > asked.low else 1
    return int(min(VALUES, (asked.high - asked.low) / asked.step + 1.5))


def spread(walker: Walker, number: int) -> Point | None:
    """One of the points, by its number from 1 on."""
    places: dict[str, float] = {}

    def fill(name: str, asked: BaseDistribution) -> Any:
        group = sets.group_of(name)
        if group is not None and sets.count_of(group) in places and name != sets.count_of(group):
            return 1  # the count takes the cheapest
        places[name] = _halton(number, BASES[len(places) % len(BASES)])
        return at_share(asked, places[name])

    return walker.walk({}, fill)


def _halton(number: int, base: int) -> float:
    found, part = 0.0, 1.0
    while number:
        part /= base
        found += part * (number % base)
        number //= base
    return found


def design(walker: Walker, known: Iterable[str]) -> Params | None:
    """The first of the points that is not known."""
    for number in range(1, 4 * MOST):
        point = spread(walker, number)
        if point is not None and point.identity not in known:
            return point.params
    return None
