"""Made-up problems of omission and Wanda, whose true fronts are known exactly.

A block costs perplexity by its importance; two blocks that are neighbours, or next but one, cost
more than both alone; and zeros cost more where blocks are gone. Because only near blocks interact,
a walk along the chain finds the best set of every size, and so the whole front.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Any

from spaces.omission_wanda import OmissionWandaSpace
from trainables.omission.method import Omission
from trainables.stage import Facts, Stage
from trainables.wanda import Wanda

BASE, EMBEDDING = 20.0, 8.0  # perplexity of the untouched model; parameters outside of blocks


@dataclass(frozen=True)
class Problem:
    """One problem: what it costs to take blocks and weights away.

    Attributes:
        interaction: how much two near blocks cost together, against what they cost alone.
        noise: of the ranking that the space starts from.
        zeros: how much more than usual it costs to zero weights.
        limit: on perplexity, as a share of the untouched model's.
    """

    seed: int
    blocks: int = 30
    interaction: float = 1.0
    noise: float = 0.5
    zeros: float = 1.0
    limit: float = 1.3

    @cached_property
    def space(self) -> OmissionWandaSpace:
        return OmissionWandaSpace()

    @cached_property
    def importance(self) -> list[float]:
        """What a block alone costs, in the logarithm of perplexity; more at both ends."""
        rng = Random(f"importance/{self.seed}/{self.blocks}")
        drawn = [math.exp(rng.gauss(0, 0.8)) for _ in range(self.blocks)]
        ends = [1 + 3 * abs(2 * n / (self.blocks - 1) - 1) ** 3 for n in range(self.blocks)]
        return [0.022 * cost * end for cost, end in zip(drawn, ends, strict=True)]

    @cached_property
    def pairs(self) -> dict[tuple[int, int], float]:
        """What two near blocks cost beyond their sum; some pairs cost a little less."""
        rng, found = Random(f"pairs/{self.seed}/{self.blocks}"), {}
        for first, gap in product(range(self.blocks), (1, 2)):
            if (second := first + gap) < self.blocks:
                one, other = self.importance[first], self.importance[second]
                drawn = self.interaction * math.sqrt(one * other) * rng.gauss(0.5, 0.7) / gap
                found[first, second] = max(drawn, -0.3 * min(one, other))
        return found

    @cached_property
    def tender(self) -> list[float]:
        """How much more a block costs where many weights are gone."""
        rng = Random(f"tender/{self.seed}/{self.blocks}")
        return [rng.uniform(0, 4) for _ in range(self.blocks)]

    @cached_property
    def facts(self) -> Facts:
        """What the baseline found: a ranking that is roughly right."""
        rng = Random(f"ranking/{self.seed}/{self.blocks}")
        seen = [cost * math.exp(rng.gauss(0, self.noise)) for cost in self.importance]
        return Facts(self.blocks, survey={"influence": seen})

    def empty(self, sparsity: float) -> float:
        """What zeros cost in the untouched model."""
        return 1.1 * self.zeros * float(sparsity**2.6)

    def alone(self, block: int, sparsity: float) -> float:
        return self.importance[block] * (1 + self.tender[block] * self.empty(sparsity))

    def cost(self, gone: tuple[int, ...], sparsity: float) -> float:
        """In the logarithm of perplexity."""
        near = sum(c for (a, b), c in self.pairs.items() if a in gone and b in gone)
        return self.empty(sparsity) + near + sum(self.alone(n, sparsity) for n in gone)

    def size(self, gone: int, sparsity: float) -> float:
        """Parameters that are not zero."""
        return EMBEDDING + (self.blocks - gone) * (1 - sparsity)

    def metrics(self, gone: tuple[int, ...], sparsity: float) -> dict[str, float]:
        """What a trial measures."""
        perplexity = BASE * math.exp(self.cost(gone, sparsity))
        return {"perplexity": perplexity, "nonzero_parameters": self.size(len(gone), sparsity)}

    def measure(self, stages: list[Stage]) -> dict[str, float]:
        """What a trial of these stages measures."""
        gone: tuple[int, ...] = ()
        sparsity = 0.0
        for stage in stages:
            if isinstance(stage, Omission):
                gone = tuple(stage.skip)
            elif isinstance(stage, Wanda):
                sparsity = float(stage.sparsity or 0)
        return self.metrics(gone, sparsity)

    def ask(self, trial: Any) -> list[Stage]:
        return self.space.stages(trial, self.facts)

    @cached_property
    def truth(self) -> list[tuple[float, float]]:
        """The best perplexity of every size that the space can reach."""
        space = self.space
        found = []
        for percent in range(space.low, space.high + 1, space.step):
            for gone, cost in enumerate(self._cheapest(percent / 100)):
                perplexity = BASE * math.exp(self.empty(percent / 100) + cost)
                found.append((perplexity, self.size(gone, percent / 100)))
        return found

    def _cheapest(self, sparsity: float) -> list[float]:
        """The lowest cost of taking 0, 1, 2, ... blocks, by the last two that were taken."""
        best: dict[tuple[int, bool, bool], float] = {(0, False, False): 0.0}
        free = range(self.space.keep_first, self.blocks - self.space.keep_last)
        for block in range(self.blocks):
            step: dict[tuple[int, bool, bool], float] = {}
            for (gone, before, last), cost in best.items():
                _keep(step, (gone, last, False), cost)
                if block in free and gone < self.space.max_skip:
                    more = cost + self.alone(block, sparsity)
                    more += self.pairs.get((block - 1, block), 0.0) if last else 0.0
                    more += self.pairs.get((block - 2, block), 0.0) if before else 0.0
                    _keep(step, (gone + 1, last, True), more)
            best = step
        sizes = range(self.space.max_skip + 1)
        return [min(cost for (n, _, _), cost in best.items() if n == gone) for gone in sizes]


def _keep(table: dict[tuple[int, bool, bool], float], key: Any, cost: float) -> None:
    table[key] = min(cost, table.get(key, math.inf))


def hypervolume(points: list[tuple[float, float]], corner: tuple[float, float]) -> float:
    """The area between the points and a corner; less is better in both."""
    area, height = 0.0, corner[1]
    for across, up in sorted(points):
        if across < corner[0] and up < height:
            area += (corner[0] - across) * (height - up)
            height = up
    return area


# The default sampler was tuned on seeds 0 to 7 of these, and on no others.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "30 blocks": {},
    "16 blocks": {"blocks": 16},
    "48 blocks, strong interactions, poor ranking": {
        "blocks": 48,
        "interaction": 2.0,
        "noise": 1.0,
    },
    "30 blocks, costly zeros, limit 150 %": {"zeros": 4.0, "limit": 1.5},
}
