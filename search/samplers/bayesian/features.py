"""What a point's stages say in numbers, for models of what they do.

Points are described by what they mean, and not by their parameters: a set is its members and how
many they are, whatever candidates its count cut; a stage that is missing has no settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from search.samplers.points import Point

Floats: TypeAlias = NDArray[np.float64]
Described: TypeAlias = Mapping[str, float]


def describe(point: Point) -> dict[str, float]:
    """A point's features by name: a set's members as `where:number`, all others as they are."""
    found: dict[str, float] = {}
    stages = [point.params] if point.stages is None else point.stages
    for at, one in enumerate(stages):
        _flat(str(at), one, found)
    return found


def _flat(where: str, value: Any, found: dict[str, float]) -> None:
    if isinstance(value, str | bool | None):
        found[f"{where}={value}"] = 1.0
    elif isinstance(value, int | float):
        found[where] = float(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _flat(f"{where}.{key}", inner, found)
    elif all(type(one) is int for one in value):
        found[f"{where}#"] = float(len(value))
        for one in value:
            found[f"{where}:{one}"] = 1.0
    else:
        for at, inner in enumerate(value):
            _flat(f"{where}.{at}", inner, found)


@dataclass(frozen=True)
class Table:
    """Points as rows.

    Attributes:
        members: [points, units] who is in which set, 0 or 1.
        others: [points, columns] everything else, from 0 to 1.
    """

    members: Floats
    others: Floats

    def __len__(self) -> int:
        return len(self.members)


class Columns:
    """The columns that points are told by; one in which all of them agree is left out."""

    def __init__(self, points: Sequence[Described]) -> None:
        names = sorted(set().union(*points))
        self.at = {name: column for column, name in enumerate(names)}
        whole = self._whole(points)
        self.low = whole.min(axis=0, initial=np.inf)
        self.range = whole.max(axis=0, initial=-np.inf) - self.low
        unit = np.array([":" in name for name in names], dtype=bool)
        self.units = np.flatnonzero(unit & (self.range > 0))
        self.rest = np.flatnonzero(~unit & (self.range > 0))

    def table(self, points: Sequence[Described]) -> Table:
        """Points as rows; what has no column is left out."""
        whole = self._whole(points)
        scaled = (whole[:, self.rest] - self.low[self.rest]) / self.range[self.rest]
        return Table(whole[:, self.units], scaled)

    def _whole(self, points: Sequence[Described]) -> Floats:
        whole = np.zeros((len(points), len(self.at)))
        for row, point in enumerate(points):
            for name, value in point.items():
                if (column := self.at.get(name)) is not None:
                    whole[row, column] = value
        return whole
