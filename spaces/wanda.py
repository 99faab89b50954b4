"""Wanda alone: how many percent of each row become zero."""

from typing import Annotated, Any

from pydantic import Field

from trainables.stage import Facts, Stage
from trainables.wanda import Wanda

Percent = Annotated[int, Field(ge=0, le=99)]
Step = Annotated[int, Field(ge=1, le=99)]


def space(
    trial: Any, facts: Facts, *, low: Percent = 0, high: Percent = 60, step: Step = 5
) -> list[Stage]:
    """Sparsity from `low` to `high` percent."""
    return [Wanda(sparsity(trial, low, high, step))]


def sparsity(trial: Any, low: int, high: int, step: int) -> float:
    """A share, proposed in whole percent: float steps do not add up exactly."""
    percent: int = trial.suggest_int("wanda.percent", low, high, step=step)
    return percent / 100
