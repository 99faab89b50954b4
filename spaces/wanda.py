"""Wanda alone: how many percent of each row become zero."""

from typing import Any

from trainables.bench.facts import Facts
from trainables.bench.stage import Stage
from trainables.wanda import Wanda


def space(trial: Any, facts: Facts, *, low: int = 0, high: int = 60, step: int = 5) -> list[Stage]:
    """Sparsity from `low` to `high` percent."""
    return [Wanda(sparsity(trial, low, high, step))]


def sparsity(trial: Any, low: int, high: int, step: int) -> float:
    """A share, proposed in whole percent: float steps do not add up exactly."""
    percent: int = trial.suggest_int("wanda.percent", low, high, step=step)
    return percent / 100
