"""Whether a space still asks what the trials of earlier launches answered.

Optuna takes no other choices, and no other kind, for a parameter that a study knows already.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial

from search.study.stand_in import StandIn, default, said
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
                got=said(now),
                allowed=said(before),
                do="undo the change, or give the study a new name",
            )


class _Again(StandIn):
    """Gives the answers of an earlier trial."""

    def __init__(self, row: FrozenTrial) -> None:
        self.row = row
        self.changed: tuple[str, BaseDistribution, BaseDistribution] | None = None

    def answer(self, name: str, asked: BaseDistribution) -> Any:
        before = self.row.distributions.get(name)
        if before is None:
            return default(asked)
        try:
            check_distribution_compatibility(before, asked)
        except ValueError:
            self.changed = self.changed or (name, before, asked)
        return self.row.params[name]
