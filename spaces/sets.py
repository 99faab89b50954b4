"""A subset of blocks as one 0/1 integer per block: the encoding the samplers do best with."""

from collections.abc import Iterable, Sequence
from typing import Any


def suggest_set(trial: Any, name: str, members: Iterable[int]) -> tuple[int, ...]:
    """The members a trial chooses; parameters `<name>.<number>`, 1 for chosen.

    In a study's `[[first]]` points and in `starts`, a set may be given as a list under `name`.
    """
    return tuple(n for n in members if trial.suggest_int(f"{name}.{n:02d}", 0, 1))


def cheapest(chosen: Sequence[int], price: Sequence[float], most: int) -> tuple[int, ...]:
    """At most `most` of the chosen, those with the lowest price, in ascending order."""
    return tuple(sorted(sorted(chosen, key=lambda n: (price[n], n))[:most]))
