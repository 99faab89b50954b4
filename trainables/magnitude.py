"""Magnitude pruning: the weights that are smallest become zero.

Masks equal those of `torch.nn.utils.prune` bit for bit, ties included: `l1_unstructured` and
`global_unstructured` for single weights, `ln_structured` with n = 2 for rows. `GradualMagnitude`
prunes little by little while the model trains, along the cubic schedule.

Source: "Learning both Weights and Connections for Efficient Neural Networks", Han et al., NeurIPS
2015 (arXiv 1506.02626); the schedule: "To prune, or not to prune", Zhu and Gupta, 2017
(arXiv 1710.01878).
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainables.bench.models.structure import linears, rows, unrows
from trainables.bench.training.loop import Recipe
from trainables.core.fork import put
from trainables.core.lineage import Effect
from trainables.core.types import Linear, PreTrainedModel, Progress, Stats
from trainables.recover import Recover, zeros
from trainables.stage import Bench, Method, Stage, Summary, Trained
from trainables.wanda import prune_mask, sparse_runtime

Scope: TypeAlias = Literal["tensor", "global"]
Granularity: TypeAlias = Literal["unstructured", "rows"]


@dataclass(frozen=True)
class Smallest(Effect):
    """The smallest weights, by this rule, are zero."""

    sparsity: float
    scope: Scope
    granularity: Granularity
    pattern: tuple[int, int] | None


@dataclass(frozen=True)
class Magnitude(Method):
    """Set the smallest weights of the linears inside the blocks to zero; biases stay, and so do
    embeddings and heads.

    Attributes:
        sparsity: share of the weights, or of the rows, that become zero, in [0, 1); of so many the
            nearest whole number. Zeros that are there already are the first to count.
        scope: tensor: this share of every weight matrix; global: of all of them together.
        granularity: unstructured: single weights by |w|; rows: whole output rows by their L2 norm,
            over their length's square root where rows of several matrices compare.
        pattern: (N, M) keeps the largest N of every M consecutive inputs instead; `sparsity` must
            then be 1 - N/M or left at 0.
    """

    sparsity: float = 0.0
    scope: Scope = "tensor"
    granularity: Granularity = "unstructured"
    pattern: tuple[int, int] | None = None

    @property
    def idle(self) -> bool:
        return self.sparsity == 0 and self.pattern is None

    @property
    def runtime(self) -> str:
        return sparse_runtime(self.pattern)

    def __post_init__(self) -> None:
        self.require("sparsity", 0 <= self.sparsity < 1, "0 <= sparsity < 1")
        for name, kind in (("scope", Scope), ("granularity", Granularity)):
            self.require(name, getattr(self, name) in get_args(kind), " or ".join(get_args(kind)))
        if self.pattern is not None:
            keep, of = self.pattern
            self.require("pattern", 0 < keep < of, "(N, M) with 0 < N < M: keeps N of every M")
            given = self.sparsity in (0, 1 - keep / of)
            self.require("sparsity", given, f"{1 - keep / of:g}, what pattern {keep}:{of} gives")
            plain = (self.scope, self.granularity) == ("tensor", "unstructured")
            self.require("pattern", plain, 'one with scope "tensor", granularity "unstructured"')

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        layers = linears(model)
        drop = self.masks(layers)
        for name, layer in layers.items():
            if drop[name].any():
                put(layer, "weight", layer.weight.detach().masked_fill(drop[name], 0))
        effect = Smallest(self.sparsity, self.scope, self.granularity, self.pattern)
        changed = any(bool(mask.any()) for mask in drop.values())
        return Summary((effect,) if changed else (), counts(layers), label=self.rule)

    def masks(self, layers: Mapping[str, Linear]) -> dict[str, Tensor]:
        """For each layer, True where its weight goes; nothing is edited."""
        weights = {name: layer.weight.detach() for name, layer in layers.items()}
        if self.pattern is not None:
            return {name: _of_every(layer, self.pattern) for name, layer in layers.items()}
        if self.granularity == "rows":
            norms = {n: rows(layer).detach().norm(p=2, dim=1) for n, layer in layers.items()}
            gone = smallest_rows(norms, self._lengths(layers), self.sparsity)
            return {name: _spread(layers[name], mask) for name, mask in gone.items()}
        if self.scope == "global":
            return smallest_of_all(weights, self.sparsity)
        return {name: smallest(weight, self.sparsity) for name, weight in weights.items()}

    def _lengths(self, layers: Mapping[str, Linear]) -> dict[str, int] | None:
        if self.scope == "tensor":
            return None
        return {name: rows(layer).shape[1] for name, layer in layers.items()}

    @property
    def rule(self) -> str:
        """In words: `magnitude 50 % of all rows`."""
        if self.pattern is not None:
            return f"magnitude, {self.pattern[0]} of every {self.pattern[1]} kept"
        what = "rows" if self.granularity == "rows" else "weights"
        where = f"all {what}" if self.scope == "global" else f"each matrix's {what}"
        return f"magnitude {100 * self.sparsity:g} % of {where}"


def counts(layers: Mapping[str, Linear]) -> dict[str, int | float]:
    """How many weights are zero, and how many whole rows."""
    silent = [(rows(layer) == 0) for layer in layers.values()]
    zero_rows = sum(int(one.all(1).sum()) for one in silent)
    return {"zeros": sum(int(one.sum()) for one in silent), "zero_rows": zero_rows}


# -- what goes: pure functions ---------------------------------------------------------------------


def smallest(weight: Float[Tensor, "..."], share: float) -> Bool[Tensor, "..."]:
    """True for the share of a tensor's entries with the smallest |w|."""
    flat = weight.abs().reshape(-1)
    drop = torch.zeros_like(flat, dtype=torch.bool)
    if count := round(share * flat.numel()):
        drop[torch.topk(flat, count, largest=False).indices] = True
    return drop.view(weight.shape)


def smallest_of_all(weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The same over several tensors together, one row after another in their order."""
    joined = together(weight.reshape(-1) for weight in weights.values())
    parts = smallest(joined, share).split([weight.numel() for weight in weights.values()])
    return {
        name: part.view(weight.shape).to(weight.device)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def smallest_rows(
    norms: Mapping[str, Tensor], lengths: Mapping[str, int] | None, share: float
) -> dict[str, Tensor]:
    """For each tensor, True for the rows that go; of equal ones those that `topk` keeps stay.

    Args:
        norms: of each tensor's rows.
        lengths: how long they are, to compare the rows of all tensors; None: within each tensor.
    """
    if lengths is None:
        return {name: _all_but_largest(norm, share) for name, norm in norms.items()}
    scaled = [norm / lengths[name] ** 0.5 for name, norm in norms.items()]
    parts = _all_but_largest(together(scaled), share).split([len(norm) for norm in scaled])
    return {
        name: part.to(norm.device) for (name, norm), part in zip(norms.items(), parts, strict=True)
    }


def together(parts: Iterable[Tensor]) -> Tensor:
    """Tensors in one, where the first lies: layers may lie on several cards."""
    first, *rest = parts
    return torch.cat([first, *(one.to(first.device) for one in rest)])


def _all_but_largest(norms: Float[Tensor, " rows"], share: float) -> Bool[Tensor, " rows"]:
    kept = len(norms) - round(share * len(norms))
    drop = torch.ones_like(norms, dtype=torch.bool)
    drop[torch.topk(norms, kept, largest=True).indices] = False
    return drop


def _spread(layer: Linear, gone: Bool[Tensor, " outputs"]) -> Tensor:
    """The rows that go as a mask over the weight as it is stored."""
    return unrows(layer, gone[:, None].expand_as(rows(layer)))


def _of_every(layer: Linear, pattern: tuple[int, int]) -> Tensor:
    weight = rows(layer).detach()
    same = weight.new_ones(weight.shape[1])
    return unrows(layer, prune_mask(weight, same, 0.0, pattern))


# -- little by little ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PrunedWhileTrained(Trained):
    """The model learned while its smallest weights went; `how` decides the result."""


@dataclass(frozen=True)
class GradualMagnitude(Stage):
    """Prune and train in turn: after every `every` steps the share that is zero grows, quickly at
    first, then ever more slowly, up to the method's `sparsity`.

    Attributes:
        prune: the rule, and the share in the end; a pattern has no share to grow.
        recover: how the model is trained; without patience, which could end it half pruned.
        every: training steps between two prunings.
        until: the share of all training steps after which the last pruning comes, in (0, 1].
    """

    prune: Magnitude = field(default_factory=lambda: Magnitude(0.5))
    recover: Recover = field(default_factory=Recover)
    every: int = 10
    until: float = 0.75

    def __post_init__(self) -> None:
        self.require("prune", self.prune.pattern is None, "one without a pattern")
        self.require("recover", self.recover.patience == 0, "one with patience = 0")
        training = self.recover.training
        whole = not training.lora_rank and training.accumulate == 1 and not training.max_steps
        plain = "one with lora_rank = 0, accumulate = 1 and no max_steps"
        self.require("recover", whole, plain)
        self.require("every", type(self.every) is int and self.every >= 1, "from 1 on")
        self.require("until", 0 < self.until <= 1, "0 < until <= 1")

    def settings(self) -> dict[str, Any]:
        own = {"every": self.every, "until": self.until}
        return {**self.prune.settings(), **own, **self.recover.settings()}

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        rule = {**self.prune.settings(), "every": self.every, "until": self.until}
        done = yield from self.recover.learn(
            bench, lambda recipe: self._pruning(bench, recipe), rule
        )
        found = counts(linears(bench.model))
        effect = PrunedWhileTrained(done.how)
        label = f"{self.prune.rule}, little by little"
        return Summary((effect,), {**found, **done.counts}, done.details, label=label)

    def _pruning(self, bench: Bench, recipe: Recipe) -> Recipe:
        """The recipe with prunings between its steps."""
        layers = linears(bench.model)
        last = max(int(self.until * recipe.spec.epochs * recipe.steps) - 1, 0)
        held: list[tuple[Tensor, Tensor]] = []
        begun: list[int] = []

        def before(step: int) -> None:
            due = step == last or (step < last and step % self.every == 0)
            if due:
                now = replace(self.prune, sparsity=cubic(step, last, self.prune.sparsity))
                for name, drop in now.masks(layers).items():
                    layers[name].weight.data.masked_fill_(drop, 0)
            if due or not begun:  # the latter after an interruption
                held[:] = zeros(bench.model)
            begun[:] = [step]

        return replace(recipe, before=before, zeros=held)


def cubic(step: int, last: int, share: float) -> float:
    """The share that is to be zero at a step: none at the first, all of it at the last."""
    return share if step >= last else share * (1 - (1 - step / last) ** 3)
