"""Points given by hand or by a space, turned into the parameters the space asks for.

A point names parameters (`"wanda.percent" = 30`), and sets by their members
(`"omission.skip" = [20, 21]` for the 0/1 parameters `omission.skip.NN`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution

from search.study.stand_in import StandIn, default, fits, said
from spaces import sets
from trainables.core.errors import UserError, did_you_mean

Point = Mapping[str, Any]


class _Reader(StandIn):
    """Answers from the point, and notes what it was asked."""

    def __init__(self, point: Point, what: str) -> None:
        self.point, self.what = point, what
        self.params: dict[str, Any] = {}
        self.asked: list[str] = []
        self.used: set[str] = set()

    def answer(self, name: str, asked: BaseDistribution) -> Any:
        self.asked.append(name)
        found, value = self._look_up(name)
        if not found:
            return default(asked)
        if not fits(value, asked):
            raise UserError(f"{self.what}: {name}", got=value, allowed=said(asked))
        self.params[name] = value
        return value

    def _look_up(self, name: str) -> tuple[bool, Any]:
        if name in self.point:
            self.used.add(name)
            return True, self.point[name]
        group = sets.group_of(name)
        members = self.point.get(group) if group else None
        if not isinstance(members, list | tuple):
            return False, None
        self.used.add(str(group))
        return True, sets.spell(members, name)


def read_point(point: Point, ask: Callable[[Any], object], what: str) -> dict[str, Any]:
    """The parameters a point fixes; what it leaves open is for the sampler.

    Args:
        ask: runs the space on a trial.
        what: what messages call the point, such as `first[0]`.

    Raises:
        UserError: a name the space does not ask for, or a value out of its range.
    """
    reader = _Reader(point, what)
    ask(reader)
    for name, value in point.items():
        if name not in reader.used:
            allowed = ", ".join(dict.fromkeys(_short(asked) for asked in reader.asked))
            hint = did_you_mean(name, map(_short, reader.asked))
            raise UserError(f"{what}: the space has no {name}", allowed=allowed, do=hint)
        if isinstance(value, list | tuple):
            _check_members(name, value, reader.asked, what)
    return reader.params


def _check_members(name: str, value: Any, asked: list[str], what: str) -> None:
    members = sets.groups(asked).get(name)
    if members is None:
        return
    if unknown := [v for v in value if v not in members]:
        allowed = f"members from {min(members)} to {max(members)}"
        raise UserError(f"{what}: {name}", got=unknown, allowed=allowed)


def _short(name: str) -> str:
    return sets.group_of(name) or name
