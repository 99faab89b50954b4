"""Wanda alone: how many percent of each row become zero."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from spaces.space import Choices, Space, Trial
from trainables.core.errors import PlanError
from trainables.stage import Bench, Facts, Stage
from trainables.wanda import Wanda, WandaSequential

Percent = Annotated[int, Field(ge=0, le=99)]
Step = Annotated[int, Field(ge=1, le=99)]


class WandaSpace(Space):
    """Sparsity from `low` to `high` percent, proposed whole: float steps do not add up exactly.

    Attributes:
        sequential: whether blocks are pruned one after the other, each on the outputs of those
            before, as published; [false, true] lets the search decide.
    """

    low: Percent = 0
    high: Percent = 60
    step: Step = 5
    sequential: Choices[bool] = (False,)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.low > self.high:
            raise PlanError("high", got=self.high, allowed=f"low = {self.low}, or more")
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """Nothing; `sequential` is refused here for a model that cannot be run block by block."""
        if any(self.sequential):
            WandaSequential.check(bench)
        return super().survey(bench)

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        share = trial.suggest_int("wanda.percent", self.low, self.high, step=self.step) / 100
        sequential = self.sequential[0]
        if len(self.sequential) > 1:
            sequential = trial.suggest_categorical("wanda.sequential", list(self.sequential))
        return [WandaSequential(share) if sequential else Wanda(share)]
