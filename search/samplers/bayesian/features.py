"""What a point says in numbers, for models of what it does.

A set is told by its members and how many they are, whatever candidates its count cut; each member
weighs what the space thinks that it costs. What is ordered keeps its order, from 0 to 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.samplers.points import Point
from search.samplers.steps import most

Floats: TypeAlias = NDArray[np.float64]
Described: TypeAlias = Mapping[str, float]
CHEAPEST, DEAREST = 0.05, 20.0  # of what members are thought to cost, against the mean


def describe(point: Point) -> dict[str, float]:
    """A point's features by name: a set's members as `set:number` with their weights, and how many
    as `set#`; all others as they are."""
    found: dict[str, float] = {}
    for group, units in point.units.items():
        price, inside = point.prices.get(group, {}), point.members[group]
        weights = _weights(tuple(units), tuple(map(price.get, units)))
        found[f"{group}#"] = len(inside) / max(1, most(point, group))
        found |= {f"{group}:{n}": weights[n] for n in inside}
    for name in point.settings:
        _number(name, point.asked[name], point.params[name], found)
    return found


@lru_cache(maxsize=64)
def _weights(members: tuple[int, ...], prices: tuple[float | None, ...]) -> dict[int, float]:
    """What each member is thought to cost against the mean; 1 where nobody says, and by rank where
    a price says no more than which is cheaper."""
    price = [one for one in prices if one is not None and math.isfinite(one)]
    if len(price) < len(prices):
        return dict.fromkeys(members, 1.0)
    if min(price) <= 0:
        places = {one: at for at, one in enumerate(sorted(set(price)), 1)}
        price = [float(places[one]) for one in price]
    mean = sum(price) / len(price)
    return {
        number: min(max(one / mean, CHEAPEST), DEAREST)
        for number, one in zip(members, price, strict=True)
    }


def _number(name: str, asked: BaseDistribution, value: Any, found: dict[str, float]) -> None:
    if isinstance(asked, CategoricalDistribution):
        numeric = all(type(one) in (int, float) for one in asked.choices)
        if numeric:
            found[name] = asked.choices.index(value) / max(1, len(asked.choices) - 1)
        found[f"{name}={value!r}"] = 0.5 if numeric else 1.0
        return
    assert isinstance(asked, IntDistribution | FloatDistribution)
    low, high = float(asked.low), float(asked.high)
    if asked.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    found[name] = (value - low) / (high - low) if high > low else 0.0


@dataclass(frozen=True)
class Table:
    """Points as rows.

    Attributes:
        weights: [points, units] what the members of sets are thought to cost, 0 of those outside.
        members: [points, units] who is in which set, 0 or 1.
        others: [points, columns] everything else, from 0 to 1.
    """

    weights: Floats
    others: Floats
    members: Floats

    @cached_property
    def count(self) -> Floats:
        """[points]: how many members."""
        found: Floats = self.members.sum(axis=1)
        return found

    @cached_property
    def sums(self) -> Floats:
        """[points]: their weights together."""
        found: Floats = self.weights.sum(axis=1)
        return found

    @cached_property
    def squares(self) -> Floats:
        """[points]: the squares of their weights together."""
        found: Floats = (self.weights**2).sum(axis=1)
        return found

    def __len__(self) -> int:
        return len(self.members)

    def of(self, rows: NDArray[np.int64]) -> "Table":
        """Some of them."""
        return Table(self.weights[rows], self.others[rows], self.members[rows])


class Columns:
    """The columns that points are told by; one in which all of them agree is left out."""

    def __init__(self, points: Sequence[Described]) -> None:
        names = sorted(set().union(*points))
        self.at = {name: column for column, name in enumerate(names)}
        whole = self._whole(points)
        differ = whole.max(axis=0, initial=-np.inf) > whole.min(axis=0, initial=np.inf)
        unit = np.array([":" in name for name in names], dtype=bool)
        self.units = np.flatnonzero(unit & differ)
        self.rest = np.flatnonzero(~unit & differ)

    def table(self, points: Sequence[Described]) -> Table:
        """Points as rows; what has no column is left out."""
        whole = self._whole(points)
        weights = whole[:, self.units]
        return Table(weights, whole[:, self.rest], (weights > 0).astype(float))

    def _whole(self, points: Sequence[Described]) -> Floats:
        rows = [row for row, point in enumerate(points) for _ in point]
        columns = [self.at.get(name, -1) for point in points for name in point]
        whole = np.zeros((len(points), len(self.at) + 1))  # the last for names without a column
        whole[rows, columns] = [value for point in points for value in point.values()]
        return whole[:, :-1]
