"""The feed-forward layers of a model and their neurons: found by its family, cut with `put`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainables.bench.models.nonuniform import put_rows, say_widths
from trainables.bench.models.structure import blocks, family, reach, rows
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.types import Linear, PreTrainedModel


@dataclass(frozen=True)
class Ffn:
    """One feed-forward layer: the linears into its neurons, and the one out of them."""

    expand: tuple[Linear, ...]
    contract: Linear

    @property
    def width(self) -> int:
        """How many neurons it has."""
        return int(rows(self.contract).shape[1])

    def into(self) -> list[Float[Tensor, "neurons inputs"]]:
        """The weights into the neurons, a fused linear's (gate and up) one after the other."""
        return [part for layer in self.expand for part in rows(layer).split(self.width)]

    def out(self) -> Float[Tensor, "outputs neurons"]:
        """The weights out of them."""
        return rows(self.contract)


def ffns(model: PreTrainedModel) -> list[Ffn]:
    """A model's feed-forward layers, one per block, numbered as the blocks are.

    Raises PlanError for a family without any, for layers that blocks share, and for a linear that
    holds something else than neurons.
    """
    row = family(model)
    if not row.contract:
        raise PlanError(f"{type(model).__name__}: family {row.name} has no feed-forward layers")
    found = [
        Ffn(tuple(reach(block, path) for path in row.expand), reach(block, row.contract))  # type: ignore[arg-type, misc]
        for block in blocks(model)
    ]
    layers = [layer for one in found for layer in (*one.expand, one.contract)]
    if len({id(layer.weight) for layer in layers}) < len(layers):
        raise PlanError(f"{type(model).__name__}: its blocks share their feed-forward layers")
    for one in found:
        if any(rows(layer).shape[0] % one.width for layer in one.expand):
            raise PlanError(f"{type(model).__name__}: {row.expand} does not lead to {row.contract}")
    return found


def cut(model: PreTrainedModel, gone: Sequence[Bool[Tensor, " neurons"]]) -> None:
    """Take neurons out of a fork's layers, and say the widths in its config where it can."""
    for one, which in zip(ffns(model), gone, strict=True):
        if not which.any():
            continue
        width, keep = one.width, (~which).nonzero()[:, 0].to(one.contract.weight.device)
        for layer in one.expand:
            parts = rows(layer).detach().split(width)
            put_rows(layer, torch.cat([part[keep] for part in parts]))
            if layer.bias is not None:
                put(layer, "bias", torch.cat([p[keep] for p in layer.bias.detach().split(width)]))
        put_rows(one.contract, rows(one.contract).detach()[:, keep].contiguous())
    say_widths(model)


def silence_neurons(model: PreTrainedModel, gone: Sequence[Bool[Tensor, " neurons"]]) -> None:
    """The same function as after `cut`, with zeros in place of what would go."""
    for one, which in zip(ffns(model), gone, strict=True):
        if not which.any():
            continue
        which = which.to(one.contract.weight.device)
        for layer in one.expand:
            often = which.repeat(rows(layer).shape[0] // one.width)
            put_rows(layer, rows(layer).detach().masked_fill(often[:, None], 0))
            if layer.bias is not None:
                put(layer, "bias", layer.bias.detach().masked_fill(often, 0))
        put_rows(one.contract, rows(one.contract).detach().masked_fill(which, 0))
