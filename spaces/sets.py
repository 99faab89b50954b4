"""A subset of blocks as a search proposes it: how many, and one 0/1 integer per block.

    omission.skip.count = 2, omission.skip.03 = 1, omission.skip.04 = 0, omission.skip.07 = 1

One integer per block is the encoding the samplers do best with. The count spreads the proposals
over all sizes, where the integers alone would take half of the blocks. People write and read such
a set as a list, `"omission.skip" = [3, 7]`. This file alone knows how the two belong together.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spaces.space import Trial

PARAMETER = re.compile(r"(?P<group>.+)\.(?:(?P<number>\d{2,})|count)")


def suggest(
    trial: "Trial", name: str, members: Sequence[int], price: Mapping[int, float], most: int
) -> tuple[int, ...]:
    """The members that a trial chooses, in ascending order.

    Parameters `<name>.count`, 0 to `most`, and `<name>.<number>`, 1 for a candidate; the set is
    the `count` cheapest candidates, at equal prices the first.
    """
    if (hear := getattr(trial, "priced", None)) is not None:  # a sampler's own
        hear(name, price)
    count = trial.suggest_int(count_of(name), 0, min(most, len(members)))
    units, at_once = _units(name, tuple(members)), getattr(trial, "suggest_units", None)
    found = at_once(units) if at_once else [trial.suggest_int(unit, 0, 1) for unit in units]
    candidates = list(compress(members, found))
    if count < len(candidates):
        candidates = sorted(candidates, key=lambda n: (price[n], n))[:count]
    return tuple(sorted(candidates))


@lru_cache(maxsize=64)
def _units(name: str, members: tuple[int, ...]) -> list[str]:
    """The parameters of a set's members; a sampler asks for them thousands of times."""
    return [f"{name}.{n:02d}" for n in members]


def count_of(group: str) -> str:
    """The parameter that says how many members a set has."""
    return f"{group}.count"


def group_of(parameter: str) -> str | None:
    """The set that a parameter belongs to, or None."""
    found = PARAMETER.fullmatch(parameter)
    return found["group"] if found else None


def spell(members: Collection[int], parameter: str) -> int:
    """What a list of members means for one of its set's parameters."""
    found = PARAMETER.fullmatch(parameter)
    assert found is not None, f"{parameter} belongs to no set"
    return int(int(found["number"]) in members) if found["number"] else len(members)


def read(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with each set as the list of its candidates.

    The count stays only where it cuts the list, so that the same set comes of what is read.
    """
    units = groups(name for name, value in params.items() if type(value) is int and 0 <= value <= 1)
    found: dict[str, Any] = {}
    for name, value in params.items():
        members = units.get(group_of(name) or "", {})
        if name in members.values():
            found[group_of(name) or ""] = sorted(n for n, one in members.items() if params[one])
        else:
            found[name] = value
    for group in units:
        if found.get(count_of(group), 0) >= len(found[group]):
            found.pop(count_of(group), None)
    return found


def groups(parameters: Iterable[str]) -> dict[str, dict[int, str]]:
    """The sets among parameters: set -> number -> parameter, in the order given."""
    found: dict[str, dict[int, str]] = {}
    for parameter in parameters:
        match = PARAMETER.fullmatch(parameter)
        if match and match["number"]:
            found.setdefault(match["group"], {})[int(match["number"])] = parameter
    return found
