"""The chain omission, then Wanda on what remains."""

from typing import Any

from spaces import omission, wanda
from spaces.omission import survey as survey  # the baseline measures the same for the chain
from trainables.bench.facts import Facts
from trainables.bench.stage import Stage
from trainables.omission import Omission
from trainables.wanda import Wanda


def space(
    trial: Any,
    facts: Facts,
    *,
    max_skip: int = 8,
    keep_first: int = 1,
    keep_last: int = 1,
    low: int = 0,
    high: int = 50,
    step: int = 10,
) -> list[Stage]:
    """Skip up to `max_skip` blocks, then zero `low` to `high` percent of each row."""
    skip = omission.chosen(trial, facts, max_skip, keep_first, keep_last)
    return [Omission(skip=skip), Wanda(wanda.sparsity(trial, low, high, step))]


def starts(facts: Facts, *, max_skip: int = 8, low: int = 0) -> list[dict[str, Any]]:
    """The omission rankings without sparsity."""
    return [point | {"wanda.percent": low} for point in omission.starts(facts, max_skip=max_skip)]
