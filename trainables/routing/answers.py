"""What is known of items under every omission set: which answer each makes likeliest, how likely
the right one is; and what follows from that: targets to learn, sets that go well together, choices.

A set can break a model on a prompt, so that a likelihood is minus infinity or no number at all. Its
answer is then wrong and has no probability; its likelihood counts as the worst that was seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.core.errors import PlanError

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]
Target = Literal["likelihood", "margin", "probability"]
NEVER = math.inf  # a margin that no promise exceeds
CAUTION = 2.0  # standard errors, as the best of many margins flatters itself


@dataclass(frozen=True, eq=False)
class Answers:
    """Items under sets.

    Attributes:
        tasks: each item's.
        right: [items, sets] 1 where the likeliest choice is the right one, else 0.
        probability: [items, sets] the right choice's, by the softmax over all of them of what the
            task judges: the summed log-likelihood, per character where it is normalised.
        margin: [items, sets] by how much that of the right choice exceeds the best other's.
        likelihood: [items, sets] the right choice's mean log-likelihood per token.
    """

    items: NDArray[np.str_]
    tasks: NDArray[np.str_]
    prompts: NDArray[np.str_]
    right: Floats
    probability: Floats
    margin: Floats
    likelihood: Floats

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> "Answers":
        """From what `RouteWork.likelihoods` returns. PlanError where no likelihood is a number."""
        names = {"items": "item", "tasks": "task", "prompts": "prompt"}
        texts = {key: np.array([one[name] for one in records]) for key, name in names.items()}
        judged = [_judged(np.array(one["judged"], float), one["answer"]) for one in records]
        likelihood = np.array([one["likelihood"] for one in records], float)
        if not np.isfinite(likelihood).any():
            raise PlanError(
                f"no likelihood of {len(records)} items is a finite number",
                do="use bfloat16 or float32 weights, or other sets",
            )
        right, probability, margin = (np.array(part) for part in zip(*judged, strict=True))
        return cls(**texts, right=right, probability=probability, margin=margin,
                   likelihood=finite(likelihood))  # fmt: skip

    @property
    def sets(self) -> int:
        return int(self.right.shape[1])

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Any) -> "Answers":
        """Some of the items, by place or mask."""
        return Answers(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})

    def under(self, sets: Sequence[int]) -> "Answers":
        """The same items under some of the sets."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        columns = list(sets)
        return Answers(**{k: v[:, columns] if v.ndim == 2 else v for k, v in found.items()})

    def split(self, share: float, seed: int) -> tuple["Answers", "Answers"]:
        """(training, validation): of every task's items a share; rows of one item stay together."""
        names, first = np.unique(self.items, return_index=True)
        held: set[str] = set()
        random = np.random.Generator(np.random.PCG64(seed))
        for task in np.unique(self.tasks):
            own = names[self.tasks[first] == task]
            held |= set(random.permutation(own)[: max(1, round(len(own) * share))].tolist())
        mask = np.isin(self.items, sorted(held))
        if mask.all():
            raise PlanError(f"{len(names)} items are too few to train and validate a router")
        return self.take(~mask), self.take(mask)

    def targets(self, target: Target, *, centre: bool) -> Floats:
        """[items, sets] what a router learns: a set's value, or what it adds to the prompt's mean,
        as how hard a prompt is says nothing about sets."""
        raw: Floats = finite(getattr(self, target))
        return raw - raw.mean(1, keepdims=True) if centre else raw


def _judged(scores: Floats, answer: int) -> tuple[Floats, Floats, Floats]:
    """Of one item, [sets] each: right, probability, margin; scores: [sets, choices]."""
    known = np.where(np.isfinite(scores), scores, -np.inf)
    best = known.max(1)
    ok = np.isfinite(best)
    shifted = np.exp(known - np.where(ok, best, 0.0)[:, None])
    probability = np.where(ok, shifted[:, answer] / np.where(ok, shifted.sum(1), 1.0), 0.0)
    with np.errstate(invalid="ignore"):
        margin = known[:, answer] - np.delete(known, answer, 1).max(1)
    return ((known.argmax(1) == answer) & ok).astype(float), probability, margin


def finite(values: Floats) -> Floats:
    """The same, the lowest number of all in place of what is none."""
    known = np.isfinite(values)
    return values if known.all() else np.where(known, values, values[known].min(initial=0.0))


# -- choosing -----------------------------------------------------------------------------------


def by_task(values: Floats, tasks: NDArray[np.str_]) -> Floats:
    """[...] the mean over tasks of each task's mean; values: [items, ...]."""
    each = [values[tasks == task].mean(0) for task in np.unique(tasks)]
    found: Floats = np.mean(each, axis=0)
    return found


def best_set(answers: Answers, by: Literal["right", "probability", "likelihood"] = "right") -> int:
    """The one set that does best on all tasks; of equally accurate ones the likelier."""
    chance = by_task(answers.probability, answers.tasks)
    return int(np.lexsort((chance, by_task(getattr(answers, by), answers.tasks)))[-1])


def choose(promised: Floats, static: int = 0, margin: float = -NEVER) -> Rows:
    """[items] the set that promises most, where it promises more than the static one by more than
    the margin; else the static one."""
    best = promised.argmax(1)
    gain = promised.max(1) - promised[:, static]
    found: Rows = np.where(gain > margin, best, static)
    return found


def fallback(promised: Floats, held: Answers, static: int) -> float:
    """The margin of promise over the static set beyond which a router's choice is taken: the one
    with the most to gain on validation items, less two standard errors of that gain; `NEVER` where
    no margin has anything to gain by that measure.

    What is gained is the right answer's probability: whether an answer flips is too rare an event
    for the validation items of a small study to tell a gain from luck.
    """
    gain = promised.max(1) - promised[:, static]
    change = taken(held.probability, promised.argmax(1)) - held.probability[:, static]
    tasks, place, sizes = np.unique(held.tasks, return_inverse=True, return_counts=True)
    change = change / (len(tasks) * sizes[place])  # so that all tasks weigh the same
    best, found = 0.0, NEVER
    for margin in np.unique(np.append(gain[gain > 0], 0.0)):
        moved = change[gain > margin]
        sure = moved.sum() - CAUTION * math.sqrt(np.square(moved).sum())
        if sure >= best and sure > 0:
            best, found = float(sure), float(margin)
    return found


def taken(values: Floats, chosen: Rows) -> Floats:
    """[items] the chosen sets' values."""
    found: Floats = values[np.arange(len(values)), chosen]
    return found


def covering(answers: Answers, wanted: int) -> list[int]:
    """Up to so many sets that together give the items the best chance: each time the one that adds
    most to the mean over items of the best set's probability of the right answer.

    Greedy on a submodular function: at least 63 % of what any choice would reach (Nemhauser, Wolsey
    and Fisher 1978).
    """
    best = np.zeros(len(answers))
    chosen: list[int] = []
    while len(chosen) < min(wanted, answers.sets):
        reached = by_task(np.maximum(answers.probability, best[:, None]), answers.tasks)
        reached[chosen] = -1.0
        chosen.append(int(reached.argmax()))
        best = np.maximum(best, answers.probability[:, chosen[-1]])
    return chosen
