"""The chain omission, then Wanda on what remains."""

from typing import Any

from spaces import omission, wanda
from spaces.omission import Blocks
from spaces.omission import survey as survey  # the baseline measures the same for the chain
from spaces.wanda import Percent, Step
from trainables.stage import Facts, Stage
from trainables.wanda import Wanda


def space(
    trial: Any,
    facts: Facts,
    *,
    max_skip: Blocks = 8,
    keep_first: Blocks = 1,
    keep_last: Blocks = 1,
    low: Percent = 0,
    high: Percent = 50,
    step: Step = 10,
) -> list[Stage]:
    """Skip up to `max_skip` blocks, then zero `low` to `high` percent of each row."""
    omitted = omission.space(
        trial, facts, max_skip=max_skip, keep_first=keep_first, keep_last=keep_last
    )
    return [*omitted, Wanda(wanda.sparsity(trial, low, high, step))]


def starts(
    facts: Facts, *, max_skip: int = 8, keep_first: int = 1, keep_last: int = 1, low: int = 0
) -> list[dict[str, Any]]:
    """The omission rankings at the lowest sparsity."""
    ranked = omission.starts(facts, max_skip=max_skip, keep_first=keep_first, keep_last=keep_last)
    return [point | {"wanda.percent": low} for point in ranked]
