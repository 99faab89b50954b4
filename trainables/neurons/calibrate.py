"""What is measured of neurons: how they fire, how large their weights are, how the loss moves.

Each class is what `bench.stats` takes: measured once per model state and shared by all trials.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainables.bench.models.batches import reads_targets, ready, real_positions
from trainables.bench.models.blockwise import watching
from trainables.bench.models.structure import blocks, family, towers
from trainables.bench.prefix.calibrate import ByBlock, Run
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.types import IGNORED, Batch, PreTrainedModel, Stats
from trainables.neurons.ffn import Ffn, ffns
from trainables.neurons.scores import wanda_power, weight_power

FIRES = 1e-6  # from this mean |a| on, a neuron counts as active in a batch


def per_layer(stats: Stats, name: str) -> list[Tensor]:
    """One statistic of all layers, on the CPU, where all decisions are made."""
    found = {key: value for key, value in stats.items() if key.startswith(f"{name}.")}
    return [found[f"{name}.{layer}"].cpu() for layer in range(len(found))]


class Activations(ByBlock):
    """How the neurons fire: what goes into each contracting linear, padding left out."""

    answers: ClassVar[bool] = False  # look only at the tokens that the data asks a model to write

    @classmethod
    @torch.no_grad()
    def measure(
        cls, model: PreTrainedModel, inputs: Iterable[Batch], run: Run, first: int
    ) -> Stats:
        """One forward pass over the data.

        Returns:
            for each layer N, (neurons,) float32 each: `mean.N` of |a| and `norm.N`, the root of
            the mean of a squared, over all positions; `max.N` of |a|; `activity.N`, the share of
            batches whose mean |a| is at least 1e-6; `wanda.N`, |W| * norm summed over the outputs.

        Raises PlanError where no position counts, or where activations are no finite numbers.
        """
        found, spans = ffns(model)[first:], towers(model)
        tower = [index for index, span in enumerate(spans) for _ in span][first:]
        tallies = [_Tally(one) for one in found]
        masks: list[Tensor | None] = []
        answers = cls.answers and not reads_targets(model)

        def see(number: int, inputs: Tensor, _: Tensor) -> None:
            tallies[number].add(_kept(inputs, masks[tower[number]]))

        with watching([one.contract for one in found], see, "feed-forward layers"):
            for batch in inputs:
                masks[:] = [_counted(batch, index, answers) for index in range(len(spans))]
                run(batch)
        stats: Stats = {}
        for layer, (one, tally) in enumerate(zip(found, tallies, strict=True), first):
            read = tally.read()
            read["wanda"] = wanda_power(one.out(), read["norm"])
            stats |= {f"{name}.{layer}": value for name, value in read.items()}
        return stats

    @classmethod
    def owned(cls, model: PreTrainedModel) -> list[list[str]]:
        """What there is of each layer."""
        return [[f"{name}.{n}" for name in _NAMES] for n in range(len(blocks(model)))]


_NAMES = ("mean", "max", "activity", "norm", "wanda")


class AnswerActivations(Activations):
    """The same without the prompts, where the data tells a decoder what to write after them."""

    answers = True


def _counted(batch: Batch, tower: int, answers: bool) -> Tensor | None:
    """Which positions count; None where all do."""
    mask, labels = real_positions(batch, tower), batch.get("labels")
    if not answers or labels is None or labels.dim() < 2:
        return mask
    asked = labels != IGNORED
    return asked if mask is None else mask & asked


class _Tally:
    """Running statistics of one layer's neurons."""

    def __init__(self, ffn: Ffn) -> None:
        zeros = torch.zeros(ffn.width, dtype=torch.float64, device=ffn.contract.weight.device)
        self.sum, self.squares = zeros, zeros.clone()
        self.max, self.active = zeros.float(), zeros.clone()
        self.positions = self.batches = 0

    def add(self, values: Tensor) -> None:
        """What one batch gives: (positions, neurons)."""
        self.batches += 1
        if not len(values):
            return
        sizes = values.float().abs()
        total = sizes.sum(0)
        self.active += (total / len(sizes) >= FIRES).double()
        self.max = torch.maximum(self.max, sizes.amax(0))
        self.sum += total.double()
        self.squares += sizes.square_().sum(0).double()
        self.positions += len(sizes)

    def read(self) -> Stats:
        if not self.positions:
            raise PlanError("calibration: no position is left to look at, all are masked")
        if not bool(torch.isfinite(self.squares).all()):
            do = 'use dtype = "bfloat16" or "float32"'
            raise PlanError("calibration: activations that are no finite numbers", do=do)
        return {
            "mean": (self.sum / self.positions).float(),
            "max": self.max,
            "activity": (self.active / self.batches).float(),
            "norm": (self.squares / self.positions).sqrt().float(),
        }


def _kept(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """The positions that count, (positions, neurons); a layer may have been given them in one row,
    or with padding of the model's own behind them."""
    flat = inputs.flatten(0, -2)
    if mask is None or (bool(mask.all()) and mask.numel() == len(flat)):
        return flat
    if inputs.dim() == 3 and inputs.shape[1] > mask.shape[1]:
        mask = nn.functional.pad(mask, (0, inputs.shape[1] - mask.shape[1]))
    if mask.numel() != len(flat):
        return flat  # positions that are no tokens
    return flat[mask.flatten().to(flat.device)]


class Weights:
    """How large a neuron's weights are; looks at no data."""

    @classmethod
    @torch.no_grad()
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """`weight.N` for each layer N: (neurons,) float32."""
        found = enumerate(ffns(model))
        return {f"weight.{layer}": weight_power(one.into(), one.out()) for layer, one in found}


class Gradients:
    """How much the loss hangs on a neuron's weights: |gradient * weight|.

    Source: the first-order Taylor criterion, Molchanov et al., CVPR 2019 (arXiv 1906.10771).
    """

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """One backward pass over the data, on a fork.

        Returns:
            `gradient.N` for each layer N: (neurons,) float32, summed over the weights into and
            out of the neuron.

        Raises PlanError for data without targets.
        """
        own = fork(model).requires_grad_(False)
        found = ffns(own)
        for one in found:
            for layer in (*one.expand, one.contract):
                layer.weight.requires_grad_(True)
        with torch.enable_grad():
            for batch in batches:
                _loss(own, batch).backward()  # type: ignore[no-untyped-call]
        return {f"gradient.{number}": _saliency(one) for number, one in enumerate(found)}


def _loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    given = ready(model, batch, labels=True)
    if "labels" not in given and family(model).causal:
        mask = given.get("attention_mask", torch.ones_like(given["input_ids"]))
        given["labels"] = given["input_ids"].masked_fill(mask == 0, IGNORED)
    if "labels" not in given:
        raise PlanError("score gradient: the data has no labels", do="choose another score")
    loss: Tensor = model(**given).loss
    return loss


@torch.no_grad()
def _saliency(one: Ffn) -> Tensor:
    total = torch.zeros(one.width, device=one.contract.weight.device)
    for layer in (*one.expand, one.contract):
        if layer.weight.grad is None:
            raise PlanError("score gradient: the loss does not reach every feed-forward layer")
        moved = (layer.weight.float() * layer.weight.grad.float()).abs()
        if layer is one.contract:
            total += _as_rows(layer, moved).sum(0)
        else:
            total += sum(part.sum(1) for part in _as_rows(layer, moved).split(one.width))
    return total


def _as_rows(layer: nn.Module, values: Tensor) -> Tensor:
    """Values in the shape of a layer's weight as (outputs, inputs)."""
    return values if isinstance(layer, nn.Linear) else values.T
