"""The published searches over omission sets: how many blocks go, by which search and which loss."""

from typing import Any

from pydantic import Field, field_validator

from spaces.space import Point, Space, Trial
from trainables.core.spec import Count
from trainables.omission.searched import LossName, Search, SearchedOmission, Unit
from trainables.stage import Bench, Facts, Stage

JUDGED: tuple[Search, ...] = ("greedy", "evolve")  # the others look at states, at no loss


class OmissionSearchSpace(Space):
    """One trial is one search. Budgets of one greedy search are nested, and what it has measured
    is kept, so that all its budgets together cost as much as the largest."""

    budgets: tuple[Count, ...] = Field((1, 2, 4, 8), min_length=1)
    losses: tuple[LossName, ...] = Field(("ppl",), min_length=1)  # tl, tld: multiple-choice data
    by: tuple[Search, ...] = Field(("greedy",), min_length=1)
    unit: Unit = "block"
    generations: Count = 20  # of evolve
    offspring: Count = 16

    @field_validator("budgets")
    @classmethod
    def _largest_last(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(budgets)))

    def survey(self, bench: Bench) -> dict[str, Any]:
        """Nothing; a search that the model or the data does not allow is refused here."""
        for by in self.by:
            for loss in self.losses if by in JUDGED else self.losses[:1]:
                SearchedOmission(1, loss, by, self.unit).check(bench)
        return super().survey(bench)

    def starts(self, facts: Facts) -> list[Point]:
        """Every budget by the first search and loss, the smallest first."""
        first: Point = {"omission.by": self.by[0]}
        if self.by[0] in JUDGED:
            first["omission.loss"] = self.losses[0]
        return [{**first, "omission.budget": budget} for budget in self.budgets]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        by = trial.suggest_categorical("omission.by", list(self.by))
        budget = trial.suggest_categorical("omission.budget", list(self.budgets))
        loss = self.losses[0]
        if by in JUDGED:
            loss = trial.suggest_categorical("omission.loss", list(self.losses))
        return [
            SearchedOmission(
                budget,
                loss,
                by,
                self.unit,
                generations=self.generations,
                offspring=self.offspring,
            )
        ]
