"""Magnitude pruning: how many of the smallest weights or rows go, and how the rest is retrained."""

import re
from typing import Annotated, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, model_validator

from spaces.space import Choices, Space, Trial
from spaces.wanda import Percent, Step
from trainables.core.errors import PlanError
from trainables.core.spec import Count, TrainSpec
from trainables.magnitude import GradualMagnitude, Granularity, Magnitude, Scope
from trainables.recover import Recover
from trainables.stage import Facts, Stage

Retrain: TypeAlias = Literal["none", "after", "gradual"]


def _granularity(name: str) -> str:
    pattern = re.fullmatch(r"(\d+):(\d+)", name)
    if name not in get_args(Granularity) and not (
        pattern and 0 < int(pattern[1]) < int(pattern[2])
    ):
        raise ValueError('"unstructured", "rows", or N:M such as "2:4", which keeps N of every M')
    return name


class MagnitudeSpace(Space):
    """From `low` to `high` percent, proposed whole.

    Attributes:
        scopes: this share of every matrix, or of all of them together.
        granularities: single weights, rows, or a pattern such as "2:4", which has no percent.
        retrain: not at all, with the zeros held afterwards, or pruned little by little meanwhile.
        recover: how it is retrained.
        every: training steps between two prunings of a gradual one.
    """

    low: Percent = 10
    high: Percent = 90
    step: Step = 10
    scopes: Choices[Scope] = ("tensor", "global")
    granularities: Choices[Annotated[str, AfterValidator(_granularity)]] = ("unstructured", "rows")
    retrain: Choices[Retrain] = ("none", "after")
    recover: TrainSpec = TrainSpec()
    every: Count = 10

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low > self.high:
            raise PlanError("high", got=self.high, allowed=f"low = {self.low}, or more")
        if "gradual" in self.retrain and any(":" in one for one in self.granularities):
            allowed = '"none" and "after": a pattern has no share to grow little by little'
            raise PlanError("retrain, where granularities hold a pattern", allowed=allowed)
        return self

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        prune, training = self._prune(trial), Recover(self.recover)
        how = self.retrain[0]
        if len(self.retrain) > 1:
            how = trial.suggest_categorical("magnitude.retrain", list(self.retrain))
        if how == "gradual":
            return [GradualMagnitude(prune, training, self.every)]
        return [prune, training] if how == "after" else [prune]

    def _prune(self, trial: Trial) -> Magnitude:
        kind = trial.suggest_categorical("magnitude.granularity", list(self.granularities))
        if ":" in kind:
            keep, of = map(int, kind.split(":"))
            return Magnitude(pattern=(keep, of))
        share = trial.suggest_int("magnitude.percent", self.low, self.high, step=self.step) / 100
        scope = trial.suggest_categorical("magnitude.scope", list(self.scopes))
        granularity: Granularity = "rows" if kind == "rows" else "unstructured"
        return Magnitude(share, scope, granularity)
