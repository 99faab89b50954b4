"""The smallest steps away from a point, and values drawn at random.

A unit of a set is switched with another, added or given back; an integer, a number or a choice
goes one step aside.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.samplers.points import Params, Point
from spaces import sets

SHARE = 0.1  # of a continuous range, which has no step of its own


def steps(point: Point) -> list[Params]:
    """The parameters of all points one step away; a branch that opens is for the space to ask."""
    found = [one for group in point.units for one in _set_steps(point, group)]
    for name in point.settings:
        found += [point.params | {name: v} for v in beside(point.asked[name], point.params[name])]
    return found


def resized(
    params: Params, units: Mapping[int, str], group: str, chosen: Collection[int]
) -> Params:
    """The parameters with these members in a set, and a count that cuts none."""
    found = params | dict.fromkeys(units.values(), 0)
    for number in chosen:
        found[units[number]] = 1
    if sets.count_of(group) in params:
        found[sets.count_of(group)] = len(chosen)
    return found


def most(point: Point, group: str) -> int:
    """How many members a set may have."""
    asked = point.asked.get(sets.count_of(group))
    return asked.high if isinstance(asked, IntDistribution) else len(point.units[group])


def _set_steps(point: Point, group: str) -> Iterator[Params]:
    inside, units = point.members[group], point.units[group]
    outside = [number for number in units if number not in inside]
    chosen = []
    for gone in inside:
        left = [number for number in inside if number != gone]
        chosen += [left, *([*left, new] for new in outside)]
    if len(inside) < most(point, group):
        chosen += [[*inside, new] for new in outside]
    return (resized(point.params, units, group, one) for one in chosen)


def beside(asked: BaseDistribution, value: Any, share: float = SHARE) -> list[Any]:
    """The values one step aside; of a continuous range, that share of it."""
    if isinstance(asked, CategoricalDistribution):
        at = asked.choices.index(value)
        return [asked.choices[i] for i in (at - 1, at + 1) if 0 <= i < len(asked.choices)]
    if isinstance(asked, IntDistribution):
        near: list[float] = [value - asked.step, value + asked.step]
        if asked.log:
            near = [max(1, value // 2), value * 2] if value > 3 else near
        return [one for one in near if asked.low <= one <= asked.high and one != value]
    assert isinstance(asked, FloatDistribution)
    if asked.step is not None:
        near = [round(value - asked.step, 12), round(value + asked.step, 12)]
    elif asked.log:
        factor = (asked.high / asked.low) ** share
        near = [value / factor, value * factor]
    else:
        width = share * (asked.high - asked.low)
        near = [value - width, value + width]
    return [one for one in near if asked.low <= one <= asked.high and one != value]


def draw(rng: Random, asked: BaseDistribution) -> Any:
    """A value at random."""
    return at_share(asked, rng.random())


def at_share(asked: BaseDistribution, share: float) -> Any:
    """The value at a share of the range, from 0 to below 1, each value being as wide as the
    others."""
    if isinstance(asked, IntDistribution) and not asked.log:  # first, as most are
        count = (asked.high - asked.low) // asked.step
        return asked.low + asked.step * int(share * (count + 1))
    if isinstance(asked, CategoricalDistribution):
        return asked.choices[int(share * len(asked.choices))]
    assert isinstance(asked, IntDistribution | FloatDistribution)
    if asked.log:
        low, high = math.log(asked.low), math.log(asked.high)
        inside = min(max(math.exp(low + share * (high - low)), asked.low), asked.high)
        return round(inside) if isinstance(asked, IntDistribution) else inside
    if asked.step is not None:
        count = math.floor((asked.high - asked.low) / asked.step + 1e-9)
        return round(asked.low + asked.step * int(share * (count + 1)), 12)
    return asked.low + share * (asked.high - asked.low)
