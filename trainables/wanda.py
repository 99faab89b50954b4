"""Wanda: zero the weights with the smallest |W| * ||X||, compared within each output row.

Source: "A Simple and Effective Pruning Approach for Large Language Models", Sun et al., ICLR 2024
(arXiv 2306.11695). Masks equal the published algorithm's bit for bit: its running mean of squared
input norms, its stable sort, one sample after the other.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trainables.bench.models.blockwise import Entry, Walk, walk_alone, watching
from trainables.bench.models.structure import blocks, linears, rows, unrows
from trainables.bench.prefix.calibrate import ByBlock, Run
from trainables.core.cache import digest_tensors
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.lineage import Effect
from trainables.core.types import IGNORED, Batch, Linear, PreTrainedModel, Progress, Stats
from trainables.stage import Bench, Method, Stage, Summary


@dataclass(frozen=True)
class Zeroed(Effect):
    """The weights that Wanda's rule picks by these input norms are zero."""

    sparsity: float
    pattern: tuple[int, int] | None
    norms: str  # a digest of them, or of the data where they were measured block by block
    sequential: bool = False


@dataclass(frozen=True)
class Wanda(ByBlock, Method):
    """Set a share of every linear inside the blocks to zero; embeddings and heads stay.

    Calibrated once on the dense model, which all trials share.

    Attributes:
        sparsity: share of each output row that becomes zero, in [0, 1); `int(s * inputs)` weights.
        pattern: (N, M) keeps N of every M consecutive inputs instead; `sparsity` must then be
            1 - N/M or left at 0.
    """

    sparsity: float = 0.0
    pattern: tuple[int, int] | None = None
    sequential: ClassVar[bool] = False

    @property
    def idle(self) -> bool:
        return self.sparsity == 0 and self.pattern is None

    @property
    def runtime(self) -> str:
        return sparse_runtime(self.pattern)

    def __post_init__(self) -> None:
        self.require("sparsity", 0 <= self.sparsity < 1, "0 <= sparsity < 1")
        if self.pattern is not None:
            keep, of = self.pattern
            self.require("pattern", 0 < keep < of, "(N, M) with 0 < N < M: keeps N of every M")
            given = self.sparsity in (0, 1 - keep / of)
            self.require("sparsity", given, f"{1 - keep / of:g}, what pattern {keep}:{of} gives")

    @classmethod
    def inputs(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Iterator[Batch]:
        """One sample after the other."""
        return _samples(model, batches)

    @classmethod
    def measure(
        cls, model: PreTrainedModel, inputs: Iterable[Batch], run: Run, first: int
    ) -> Stats:
        """Mean squared input norm of every linear.

        Returns:
            name of the linear in the model -> (inputs,) float32.
        """
        layers, wanted = linears(model), cls.owned(model)[first:]
        with _listening({name: layers[name] for names in wanted for name in names}) as norms:
            for sample in inputs:
                run(sample)
        return norms

    @classmethod
    def owned(cls, model: PreTrainedModel) -> list[list[str]]:
        """The linears of each block."""
        names = {layer: name for name, layer in linears(model).items()}
        return [[names[m] for m in one.modules() if m in names] for one in blocks(model)]

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        layers = linears(model)
        zeros = sum(self._prune(layer, stats[name]) for name, layer in layers.items())
        return self._summary(zeros, digest_tensors({name: stats[name] for name in layers}))

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        if self.nothing:  # nor to calibrate for
            return self._summary(0, "")
        return (yield from super().on(bench))

    @property
    def nothing(self) -> bool:
        """Whether no weight would go."""
        return self.pattern is None and self.sparsity == 0

    def _summary(self, zeros: int, norms: str) -> Summary:
        sparsity = self.sparsity if self.pattern is None else 0.0
        effect = Zeroed(sparsity, self.pattern, norms, self.sequential)
        rule = f"{100 * self.sparsity:.0f} %"
        if self.pattern is not None:
            rule = ":".join(map(str, self.pattern))
        return Summary((effect,) if zeros else (), {"zeros": zeros}, label=f"Wanda {rule}")

    def _prune(self, layer: Linear, norms: Float[Tensor, " inputs"]) -> int:
        weight = rows(layer)
        seen = _of_each_row(layer, norms.to(weight.device))
        drop = prune_mask(weight, seen, self.sparsity, self.pattern)
        put(layer, "weight", unrows(layer, weight.masked_fill(drop, 0)))
        return int(torch.count_nonzero(drop))  # six times as fast as a sum


@dataclass(frozen=True)
class WandaSequential(Wanda):
    """The same block by block, each calibrated on the outputs of the pruned ones before it: as
    published, and nothing that trials could share."""

    sequential: ClassVar[bool] = True

    @staticmethod
    def check(bench: Bench) -> None:
        """Raises PlanError where the bench's model cannot be run block by block."""
        walk_alone(bench.model)

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        if self.nothing:
            return self._summary(0, "")
        batches = list(bench.batches("calibration"))
        zeros = yield from self._sequentially(bench.model, batches)
        return self._summary(zeros, bench.data.fingerprint("calibration"))

    @torch.no_grad()
    def _sequentially(
        self, model: PreTrainedModel, batches: list[Batch]
    ) -> Generator[Progress, None, int]:
        walk = Walk(model)
        names = {layer: name for name, layer in linears(model).items()}
        entries: list[Entry] = [walk.enter(sample) for sample in _samples(model, batches)]
        states = [entry.hidden for entry in entries]
        zeros = 0
        for index, block in enumerate(walk.blocks):
            inside = {names[m]: m for m in block.modules() if m in names}
            with _listening(inside) as norms:  # type: ignore[arg-type]
                for entry, state in zip(entries, states, strict=True):
                    walk.step(entry, index, state)
            zeros += sum(self._prune(layer, norms[n]) for n, layer in inside.items())  # type: ignore[arg-type]
            states = [walk.step(e, index, s) for e, s in zip(entries, states, strict=True)]
            yield {"block": float(index + 1), "blocks": float(len(walk.blocks))}
        return zeros


def sparse_runtime(pattern: tuple[int, int] | None) -> str:
    """What it takes to profit from zeros."""
    if pattern == (2, 4):
        return "2:4 sparse products, on GPUs from Ampere on; elsewhere nothing is smaller or faster"
    return "kernels for sparse weights, or a compressed file; else nothing is smaller or faster"


def sequential(stages: Sequence[Stage]) -> list[Stage]:
    """The stages with every Wanda block by block; none where that is nothing else, or where a stage
    after it trains: that would be another training."""
    plain = [type(one) is Wanda and not one.nothing for one in stages]
    if True not in plain or not all(isinstance(one, Method) for one in stages[plain.index(True) :]):
        return []
    return [
        WandaSequential(one.sparsity, one.pattern) if known and isinstance(one, Wanda) else one
        for one, known in zip(stages, plain, strict=True)
    ]


def prune_mask(
    weight: Float[Tensor, "outputs inputs"],
    norms: Float[Tensor, "*#outputs inputs"],
    sparsity: float,
    pattern: tuple[int, int] | None = None,
) -> Bool[Tensor, "outputs inputs"]:
    """True where a weight goes: the smallest |weight| * sqrt(norms) of each row, or of each M.

    Args:
        norms: mean squared norm of each input over the calibration samples; of each row's own
            inputs, where they differ.
    """
    score = weight.detach().abs() * norms.sqrt()
    if pattern is None:
        return _lowest(score, int(weight.shape[1] * sparsity))
    keep, of = pattern
    if weight.shape[1] % of:
        raise PlanError(f"pattern {keep}:{of}: a row of {weight.shape[1]} inputs is no multiple")
    groups = (weight.shape[0], -1, of)
    lowest = score.float().view(groups).topk(of - keep, dim=-1, largest=False).indices
    drop = torch.zeros_like(score, dtype=torch.bool)
    return drop.view(groups).scatter_(2, lowest, True).view(weight.shape)


def _lowest(score: Float[Tensor, "outputs inputs"], count: int) -> Bool[Tensor, "outputs inputs"]:
    """The `count` lowest of each row, of equal ones the first: what a stable sort finds, sooner."""
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    if score.device.type != "cpu":
        return _lowest_sorted(score, count)
    # numpy's selection takes a twentieth of the time of torch's sort
    limit = torch.from_numpy(np.partition(score.numpy(), count - 1)[:, count - 1 : count])
    drop = score <= limit
    found = torch.from_numpy(np.count_nonzero(drop.numpy(), axis=1))
    tied = found != count  # or not a number
    if tied.any():
        drop[tied] = _lowest_sorted(score[tied], count)
    return drop


def _lowest_sorted(
    score: Float[Tensor, "outputs inputs"], count: int
) -> Bool[Tensor, "outputs inputs"]:
    order = torch.sort(score, dim=-1, stable=True).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order[:, :count], True)


@contextmanager
def _listening(layers: dict[str, Linear]) -> Iterator[Stats]:
    """While open, fills {name: mean squared input norm} as the layers run, a call per sample."""
    norms: Stats = {}
    names, seen = list(layers), [0] * len(layers)

    def see(number: int, inputs: Tensor, _: Tensor) -> None:
        name, count = names[number], seen[number]
        features = _features(layers[name], inputs).float()
        squared = torch.norm(features.t(), p=2, dim=1) ** 2
        norms[name] = norms.get(name, torch.zeros_like(squared)) * (count / (count + 1))
        norms[name] += squared / (count + 1)
        seen[number] = count + 1

    with watching(list(layers.values()), see, "Wanda: linears"):
        yield norms


def _features(layer: nn.Module, inputs: Tensor) -> Float[Tensor, "positions inputs"]:
    """What a layer sees at each position; a convolution with groups, those of all its groups."""
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        around = nn.functional.pad(inputs.float(), layer._reversed_padding_repeated_twice, mode)
        patches = nn.functional.unfold(
            around, layer.kernel_size, layer.dilation, stride=layer.stride
        )
        return patches.transpose(1, 2).flatten(0, 1)
    return inputs.flatten(0, -2)


def _of_each_row(
    layer: Linear, norms: Float[Tensor, " inputs"]
) -> Float[Tensor, "*outputs inputs_of_one"]:
    """Of a convolution with groups, to each output row the norms of its group's inputs."""
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return norms
    return norms.view(groups, -1).repeat_interleave(layer.weight.shape[0] // groups, 0)


def _samples(model: PreTrainedModel, batches: Iterable[Batch]) -> Iterator[Batch]:
    """One sample at a time, its padding cut off; a decoder of its own is shown its targets."""
    apart = bool(getattr(model.config, "is_encoder_decoder", False))
    for batch in batches:
        for index in range(len(next(iter(batch.values())))):
            sample = {n: v[index : index + 1] for n, v in batch.items()}
            labels = sample.pop("labels", None)
            sample = _trim(sample)
            if apart and labels is not None:
                written = labels.dim() > 1  # a text, not a class
                sample["labels"] = labels[:, labels[0] != IGNORED] if written else labels
            yield sample


def _trim(sample: Batch) -> Batch:
    mask = sample.get("attention_mask")
    if mask is None or bool(mask.all()):
        return sample
    kept = mask[0].bool()
    return {n: v[:, kept] if n in _PADDED else v for n, v in sample.items()}


_PADDED = ("input_ids", "attention_mask", "token_type_ids")
