"""A subset of blocks: how many, and one 0/1 integer per block.

One integer per block is the encoding the samplers do best with. The count spreads the proposals
over all sizes, where the integers alone would take half of the blocks.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def suggest_set(
    trial: Any, name: str, members: Sequence[int], price: Mapping[int, float], most: int
) -> tuple[int, ...]:
    """The members a trial chooses, in ascending order.

    Parameters `<name>.count`, 0 to `most`, and `<name>.<number>`, 1 for a candidate; the set is
    the `count` cheapest candidates. In a study's `[[first]]` points and in `starts`, a set may be
    given as a list under `name`.
    """
    count: int = trial.suggest_int(f"{name}.count", 0, min(most, len(members)))
    candidates = [n for n in members if trial.suggest_int(f"{name}.{n:02d}", 0, 1)]
    return tuple(sorted(sorted(candidates, key=lambda n: (price[n], n))[:count]))
