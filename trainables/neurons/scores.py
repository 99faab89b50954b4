"""What a neuron is worth, by four measures: pure functions on statistics and weights.

Every measure ends as one score per neuron, low for what may go, so that one selection serves all.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Score = Literal["activation", "weight", "gradient", "wanda"]
Against = Literal["layer", "model"]  # what a value is measured against before layers compare


def activation_scores(
    mean: Sequence[Float[Tensor, " _"]],
    largest: Sequence[Float[Tensor, " _"]],
    activity: Sequence[Float[Tensor, " _"]],
    weights: tuple[float, float, float],
    against: Against = "layer",
) -> list[Float[Tensor, " _"]]:
    """How much a neuron fires: its mean |a| and its largest |a|, each as a share of the highest
    neuron's, and the share of batches in which it fires at all, weighted.

    Args:
        weights: of mean, largest and activity.
        against: the highest neuron of its layer, as published, or of the whole model: the first
            hides that some layers are quieter than others.
    """
    found = []
    for m, x, a in zip(_shares(mean, against), _shares(largest, against), activity, strict=True):
        found.append(weights[0] * m + weights[1] * x + weights[2] * a.double())
    return found


def weight_power(
    into: Sequence[Float[Tensor, "neurons _"]], out: Float[Tensor, "_ neurons"]
) -> Float[Tensor, " neurons"]:
    """The squared weights into and out of each neuron, the mean over its linears."""
    parts = [part.detach().float().square().sum(1) for part in into]
    parts.append(out.detach().float().square().sum(0))
    return torch.stack(parts).mean(0)


def wanda_power(
    out: Float[Tensor, "outputs neurons"], norm: Float[Tensor, " neurons"]
) -> Float[Tensor, " neurons"]:
    """|W| * ||X|| of the weights out of each neuron, summed over the outputs."""
    return out.detach().float().abs().sum(0) * norm.to(out.device)


def relative(
    values: Sequence[Float[Tensor, " _"]], against: Against = "layer"
) -> list[Float[Tensor, " _"]]:
    """Values measured against the mean neuron of their layer, or of the whole model."""
    mean = torch.cat([*values]).double().mean()
    means = [value.double().mean() if against == "layer" else mean for value in values]
    return [v.double() / _not_zero(m) for v, m in zip(values, means, strict=True)]


def _shares(values: Sequence[Tensor], against: Against) -> list[Tensor]:
    tops = [value.double().max() for value in values]
    if against == "model":
        tops = [torch.stack(tops).max()] * len(tops)
    return [v.double() / _not_zero(top) for v, top in zip(values, tops, strict=True)]


def _not_zero(value: Tensor) -> Tensor:
    return value.clamp_min(torch.finfo(value.dtype).tiny)  # of a layer that is dead all is zero
