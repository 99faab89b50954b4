"""Which neurons go: a pure function of their scores.

Source: the global selection with caps per layer and protected edges of SmartFarm's Gemma-3 study.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainables.core.errors import PlanError


@dataclass(frozen=True)
class Rule:
    """How many neurons go, and what each layer must keep.

    Attributes:
        ratio: share of all neurons that may go; `int(total * ratio)` of them.
        most: share of a layer that may go; `int(width * most)` neurons.
        least: neurons that a layer keeps in any case.
        edges: layers at each end of a tower that get some of theirs back.
        edge_share: how much of theirs they get back, rounded half to even; the lowest-scored
            removals stay removed.
        round_to: what kept widths are multiples of, where anything goes at all. Never more neurons
            go than without it.
        uniform: all layers keep the same number; edges then get nothing back.
    """

    ratio: float
    most: float = 1.0
    least: int = 1
    edges: int = 0
    edge_share: float = 0.5
    round_to: int = 1
    uniform: bool = False


def removals(
    scores: Sequence[Float[Tensor, " _"]], rule: Rule, towers: Sequence[range] = ()
) -> list[Bool[Tensor, " _"]]:
    """True where a neuron goes, layer by layer: the lowest scores, at equal ones the first.

    Args:
        scores: one per neuron of each layer, on one device.
        towers: the runs of layers that have edges of their own; default: all are one run.
    """
    order = [torch.sort(score, stable=True) for score in scores]
    if rule.uniform:
        counts = uniform_counts([len(score) for score in scores], rule)
    else:
        counts = global_counts([values for values, _ in order], rule)
        for layer in edges(towers or [range(len(scores))], rule.edges):
            kept = round(counts[layer] * (1 - rule.edge_share))
            counts[layer] = _allowed(len(scores[layer]), kept, rule.round_to)
    found = []
    for (_, ranked), count in zip(order, counts, strict=True):
        gone = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
        gone[ranked[:count]] = True
        found.append(gone)
    return found


def global_counts(ascending: Sequence[Float[Tensor, " _"]], rule: Rule) -> list[int]:
    """How many neurons each layer gives when all are sorted together.

    Walking up through the sorted neurons, one is passed over where its layer has given all it may:
    so each layer's lowest ones up to that limit compete for the budget. With `round_to` they do in
    steps from one allowed width to the next; a step costs as much as its highest neuron.
    """
    steps: list[Tensor] = []
    costs: list[Tensor] = []
    layers: list[Tensor] = []
    for layer, values in enumerate(ascending):
        ends = _widths_allowed(len(values), limit(len(values), rule), rule.round_to)
        steps.append(torch.diff(ends, prepend=ends.new_zeros(1)))
        costs.append(values[(ends - 1).to(values.device)].cpu())
        layers.append(torch.full_like(ends, layer))
    sizes, owners = torch.cat(steps), torch.cat(layers)
    budget = int(sum(map(len, ascending)) * rule.ratio)
    order = torch.sort(torch.cat(costs), stable=True).indices
    taken = order[sizes[order].cumsum(0) <= budget]
    given = torch.zeros(len(ascending), dtype=torch.long)
    return given.index_add_(0, owners[taken], sizes[taken]).tolist()


def uniform_counts(widths: Sequence[int], rule: Rule) -> list[int]:
    """How many neurons each layer gives so that all keep the same number.

    Raises PlanError where that asks more of a layer than it may give.
    """
    total = sum(widths)
    kept = -(-(total - int(total * rule.ratio)) // len(widths))
    kept = max(kept, *(width - limit(width, rule) for width in widths))
    kept = -(-kept // rule.round_to) * rule.round_to
    if kept > min(widths):
        if len(set(widths)) == 1:
            return [0] * len(widths)
        raise PlanError(
            "uniform",
            got=f"layers of {min(widths)} to {max(widths)} neurons",
            allowed=f"caps and round_to ask for {kept} or more in each",
            do="raise max_prune_per_layer, or leave uniform off",
        )
    return [width - kept for width in widths]


def limit(width: int, rule: Rule) -> int:
    """How many neurons a layer may give at most."""
    return max(min(int(width * rule.most), width - rule.least), 0)


def edges(towers: Sequence[range], count: int) -> list[int]:
    """The first and last `count` layers of each tower, each once."""
    ends = [(*tower[:count], *tower[max(len(tower) - count, 0) :]) for tower in towers]
    return sorted({layer for found in ends for layer in found}) if count else []


def thirds(towers: Sequence[range]) -> list[int]:
    """0, 1 or 2 for each layer: the early, middle or late third of its own tower.

    Of 26 layers 0-8 are early, 9-17 middle, 18-25 late.
    """
    return [3 * place // len(tower) for tower in towers for place in range(len(tower))]


def _widths_allowed(width: int, most: int, round_to: int) -> Tensor:
    """The numbers of neurons, ascending, that may go from a layer to leave a multiple."""
    first = width % round_to or round_to
    return torch.arange(first, max(most + 1, first), round_to)


def _allowed(width: int, count: int, round_to: int) -> int:
    """The largest number that may go, up to `count`."""
    found = _widths_allowed(width, count, round_to)
    return int(found[-1]) if len(found) else 0
