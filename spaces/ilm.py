"""How to choose a language model's layer: everything ILM may be asked with, and what becomes of the
choice when the layer is plugged in and trained.

Hidden states, probes and components are shared, and so is the training of a layer that several
settings choose: most trials of a search take moments.
"""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from spaces.space import Choices, Point, Space, Trial
from trainables.core.errors import PlanError
from trainables.core.spec import Count, TrainSpec
from trainables.ilm import ILM
from trainables.ilm.method import Score
from trainables.ilm.states import Pooling
from trainables.plugin.method import AS_PUBLISHED, PlugIn
from trainables.plugin.model import Pooling as Pooled
from trainables.recover import Recover
from trainables.stage import Bench, Facts, Stage


class ILMSpace(Space):
    """Parameters `ilm.n_pcs`, `ilm.top_pc.of_N` (1 to N), and where there is a choice
    `ilm.samples`, `ilm.lambda`, `ilm.pooling`, `ilm.score`.

    Attributes:
        donor: whose layer is chosen.
        lambdas: the share of components that is taken out; 0: the largest effect of .5 and 1.
        fine_tune: plug the chosen layer in and train; else trials only tell what they choose.
        pooled: what of a text goes into the layer.
    """

    donor: str
    n_pcs: Choices[Count] = (4, 8, 16, 32, 64)
    n_samples: Choices[Count] = (400,)
    lambdas: Choices[Annotated[float, Field(ge=0, le=1)]] = (0.0,)
    pooling: Choices[Pooling] = ("mean",)
    score: Choices[Score] = ("in_sample",)
    max_length: Count = 128
    seed: int = 2023
    fine_tune: bool = True
    pooled: Pooled = "first"
    recover: TrainSpec = AS_PUBLISHED

    @model_validator(mode="after")
    def _has_samples(self) -> Self:
        if min(self.n_samples) < 10:
            raise PlanError("n_samples", got=list(self.n_samples), allowed="from 10 on")
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """Nothing; what no trial could do is refused here. The states, which every trial needs,
        are computed on the way."""
        look = self._look(max(self.n_pcs), 1, max(self.n_samples))
        look.check(bench)
        if self.fine_tune:
            self._plug(look).check(bench)
        look.find(bench)
        return super().survey(bench)

    def starts(self, facts: Facts) -> list[Point]:
        """The published setting: 5 of 16 components, on as many samples as there are."""
        if 16 not in self.n_pcs:
            return []
        point: Point = {"ilm.n_pcs": 16, "ilm.top_pc.of_16": 5}
        for name, choices in self._further().items():
            if len(choices) > 1:
                point[name] = choices[0]
        return [point]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        n_pcs = trial.suggest_categorical("ilm.n_pcs", list(self.n_pcs))
        top_pc = trial.suggest_int(f"ilm.top_pc.of_{n_pcs}", 1, n_pcs)
        found = {
            name: trial.suggest_categorical(name, list(choices)) if len(choices) > 1 else choices[0]
            for name, choices in self._further().items()
        }
        look = self._look(n_pcs, top_pc, *found.values())
        return [self._plug(look)] if self.fine_tune else [look]

    def _further(self) -> dict[str, tuple[Any, ...]]:
        return {
            "ilm.samples": self.n_samples,
            "ilm.lambda": self.lambdas,
            "ilm.pooling": self.pooling,
            "ilm.score": self.score,
        }

    def _look(
        self,
        n_pcs: int,
        top_pc: int,
        samples: int,
        strength: float = 0.0,
        pooling: Pooling | None = None,
        score: Score | None = None,
    ) -> ILM:
        return ILM(
            self.donor,
            n_pcs=n_pcs,
            top_pc=top_pc,
            lambdas=(strength,) if strength else (0.5, 1.0),
            n_samples=samples,
            seed=self.seed,
            pooling=pooling or self.pooling[0],
            score=score or self.score[0],
            max_length=self.max_length,
        )

    def _plug(self, look: ILM) -> PlugIn:
        training = Recover(self.recover)
        return PlugIn(self.donor, choose=look, pooling=self.pooled, training=training)
