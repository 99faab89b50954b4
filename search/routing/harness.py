"""Stage 4 by lm-evaluation-harness: its tasks' own scores for each way of choosing a set.

The harness asks the model under every set, and the dense one, once. A question's answer by the
routed model is that under the set which the router chooses for the question's prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, TypeAlias

from search.routing.evaluation import DENSE, HINDSIGHT, ORACLE, RANDOM, ROUTER, Row

Answers: TypeAlias = Sequence[Mapping[str, Any]]  # one task's, under one set
SCORES = ("acc", "acc_norm")


@dataclass(frozen=True)
class Asked:
    """A task's questions and the answers to them.

    Attributes:
        under: per set, whose last one is the empty one: the dense model.
        chosen: the router's set for each question.
    """

    under: Sequence[Answers]
    chosen: Sequence[int]

    @property
    def scores(self) -> list[str]:
        """Which of the scores the task has."""
        return [name for name in SCORES if name in self.under[0][0]]

    def values(self, score: str) -> list[list[float]]:
        """(sets without the dense model, questions)"""
        return [[float(one[score]) for one in answers] for answers in self.under[:-1]]

    def dense(self, score: str) -> list[float]:
        """(questions,)"""
        return [float(one[score]) for one in self.under[-1]]


def harness_rows(tasks: Mapping[str, Asked], fixed: Mapping[str, int]) -> dict[str, Row]:
    """A row per way of choosing, and one per set: `TASK/acc`, its standard error `TASK/acc_stderr`,
    and so on.

    Args:
        fixed: ways that choose one set for all questions.
    """
    sets = range(len(next(iter(tasks.values())).under) - 1)
    best = max(sets, key=lambda number: mean(_mean_of(one, number) for one in tasks.values()))
    fixed = {HINDSIGHT: best, **fixed, **{f"set {number}": number for number in sets}}
    table: dict[str, Row] = {}
    for task, asked in tasks.items():
        for score in asked.scores:
            values = asked.values(score)
            columns = list(zip(*values, strict=True))  # by question
            found = {
                DENSE: asked.dense(score),
                ROUTER: [one[at] for one, at in zip(columns, asked.chosen, strict=True)],
                **{name: values[number] for name, number in fixed.items()},
                RANDOM: [mean(one) for one in columns],
                ORACLE: [max(one) for one in columns],
            }
            for name, each in found.items():
                table.setdefault(name, {}).update(_told(f"{task}/{score}", each))
    return table


def _mean_of(asked: Asked, number: int) -> float:
    return mean(asked.values(asked.scores[0])[number])


def _told(name: str, values: Sequence[float]) -> Row:
    """As the harness has it: the mean, and the sample's deviation by the root of its size."""
    found = {name: mean(values)}
    if len(values) > 1:
        found[f"{name}_stderr"] = stdev(values) / len(values) ** 0.5
    return found
