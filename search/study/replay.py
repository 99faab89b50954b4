"""Whether a space still asks what the trials of earlier launches answered.

Optuna takes no other choices, and no other kind, for a parameter that a study knows already.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from trainables.core.errors import UserError


def still_asks(name: str, ask: Callable[[Any], object], rows: Iterable[FrozenTrial]) -> None:
    """Run a space on the parameters of earlier trials, one of each kind.

    Raises:
        UserError: a parameter whose choices or kind are others now.
    """
    for row in {frozenset(row.distributions): row for row in rows}.values():
        again = _Again(row)
        with contextlib.suppress(Exception):  # a refusal; what is wrong with a space shows later
            ask(again)
        if again.changed is not None:
            what, before, now = again.changed
            raise UserError(
                f"space {name}: {what} is asked otherwise than by the trials there are",
                got=_said(now),
                allowed=_said(before),
                do="undo the change, or give the study a new name",
            )


class _Again:
    """Stands in for a trial: gives the answers of an earlier one."""

    def __init__(self, row: FrozenTrial) -> None:
        self.row = row
        self.changed: tuple[str, BaseDistribution, BaseDistribution] | None = None

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        return self._answer(name, IntDistribution(low, high, log, step), low)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        return self._answer(name, FloatDistribution(low, high, log, step), low)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, CategoricalDistribution(choices), choices[0])

    def set_user_attr(self, key: str, value: Any) -> None:
        """Nothing: no trial is kept."""

    def _answer(self, name: str, now: BaseDistribution, default: Any) -> Any:
        before = self.row.distributions.get(name)
        if before is None:
            return default
        try:
            check_distribution_compatibility(before, now)
        except ValueError:
            self.changed = self.changed or (name, before, now)
        return self.row.params[name]


def _said(asked: BaseDistribution) -> str:
    if isinstance(asked, CategoricalDistribution):
        return ", ".join(map(str, asked.choices))
    kind = "a whole number" if isinstance(asked, IntDistribution) else "a number"
    return f"{kind}, by its logarithm" if getattr(asked, "log", False) else kind
