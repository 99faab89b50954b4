"""Quantization: weights of 8 bits or fewer, by torchao; or all of a model in half the precision.

Rounding, scales and kernels are torchao's own (its config route), so logits equal those of torchao
applied directly. What is ours: which layers, and of how many bits where they may differ: from what
each block's rounding does to the model's outputs, the cheapest choice within a size.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.bench.models.batches import reaching, real_positions
from trainables.bench.models.packed.quantized import NEEDS, Scheme, quantize, refuse
from trainables.bench.models.structure import blocks, family, has, reach
from trainables.core.cache import digest
from trainables.core.errors import PlanError
from trainables.core.fork import fork, put
from trainables.core.lineage import Effect
from trainables.core.types import Batch, PreTrainedModel, Stats
from trainables.stage import Bench, Method, Summary

Kind: TypeAlias = Literal["attention", "ffn", "other"]
Half: TypeAlias = Literal["bfloat16", "float16"]
INTEGERS = "integers"  # what weights are afterwards
WIDTHS = (2, 3, 4, 8)  # that mixed bits choose from
_STEPS = 20_000  # of a budget
GROUP = 32  # inputs that share a scale, where bits are mixed


@dataclass(frozen=True)
class Quantized(Effect):
    """These layers' weights are torchao's, each under its scheme."""

    plan: str  # a digest of layer -> scheme
    torchao: str


@dataclass(frozen=True)
class InHalf(Effect):
    """All weights are rounded to a precision."""

    dtype: Half


@dataclass(frozen=True)
class Quantize(Method):
    """Quantize the linears inside the blocks, all alike.

    Attributes:
        scheme: int8, int8-dynamic (activations too), int2 to int7, float8, float8-dynamic, or
            int4-kernel.
        group: inputs that share a scale, for whole numbers below 8 bits.
        spare: kinds of layers that stay: attention, ffn (its linears in and out), other.
        spare_blocks: blocks that stay, by number.
        embeddings: the table of token embeddings too, 8 bits per number.
    """

    scheme: str = "int8"
    group: int = GROUP
    spare: tuple[Kind, ...] = ()
    spare_blocks: tuple[int, ...] = ()
    embeddings: bool = False
    leaves: ClassVar[str] = INTEGERS

    def __post_init__(self) -> None:
        self.require("scheme", self.scheme in NEEDS, ", ".join(NEEDS))
        self.require("group", type(self.group) is int and self.group > 1, "2 or more")
        kinds = get_args(Kind)
        self.require("spare", set(self.spare) <= set(kinds), f"some of {', '.join(kinds)}")
        numbers = all(type(n) is int and n >= 0 for n in self.spare_blocks)
        self.require("spare_blocks", numbers, "numbers of blocks, from 0 on")

    @property
    def runtime(self) -> str:
        return f"torchao, {NEEDS[self.scheme]}"

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        if beyond := sorted(n for n in self.spare_blocks if n >= len(blocks(model))):
            last = len(blocks(model)) - 1
            raise PlanError("Quantize.spare_blocks", got=beyond, allowed=f"0 to {last}")
        layers = quantizable(model)
        scheme = Scheme(self.scheme, self.group)
        plan = {
            name: scheme
            for name, (block, kind) in layers.items()
            if block not in self.spare_blocks and kind not in self.spare
        }
        return quantized(model, plan, self.embeddings, f"{self.scheme}{self._but()}")

    def _but(self) -> str:
        parts = [*self.spare, *(f"block {n}" for n in self.spare_blocks)]
        return f" but {', '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class QuantizeMixed(Method):
    """Quantize the linears inside the blocks, each block with as many bits as do least harm within
    a budget; scales of groups of 32 inputs.

    Attributes:
        budget: the most bytes of these layers' weights, as a share of what they take now.
        embeddings: the table of token embeddings too, 8 bits per number.
    """

    budget: float = 0.2
    embeddings: bool = False
    leaves: ClassVar[str] = INTEGERS

    def __post_init__(self) -> None:
        self.require("budget", 0 < self.budget <= 1, "0 < budget <= 1")

    @property
    def runtime(self) -> str:
        return f"torchao, {NEEDS['int4']}"

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """What each block's rounding to each width does to the outputs, all else as it is.

        Returns:
            harm: (blocks, widths) float64, the mean KL divergence, in nats, of the model's
            predictions from the untouched one's, per prediction.
        """
        plans = [_of_block(model, n, bits) for n in range(len(blocks(model))) for bits in WIDTHS]
        forks = [fork(model) for _ in plans]
        for one, plan in zip(forks, plans, strict=True):
            quantize(one, plan)
        total, count = torch.zeros(len(plans), dtype=torch.float64), 0
        for batch in batches:
            wanted, here = _said(model, batch)
            count += here
            for index, one in enumerate(forks):
                total[index] += divergence(wanted, _said(one, batch)[0])
        return {"harm": (total / max(count, 1)).view(-1, len(WIDTHS))}

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        sizes = [[_bytes(model, n, bits) for bits in WIDTHS] for n in range(len(blocks(model)))]
        most = int(self.budget * sum(_bytes(model, n, 0) for n in range(len(blocks(model)))))
        unit = most // _STEPS + 1  # rounded up, so that blocks unlike each other stay few cases
        units = [[-(-size // unit) for size in row] for row in sizes]
        chosen = cheapest(stats["harm"].tolist(), units, most // unit)
        if chosen is None:
            least = sum(map(min, sizes)) / max(most / self.budget, 1)
            raise PlanError("QuantizeMixed.budget", got=self.budget, allowed=f"{least:.3f} or more")
        bits = [WIDTHS[index] for index in chosen]
        plan: dict[str, Scheme] = {}
        for number, width in enumerate(bits):
            plan |= _of_block(model, number, width)
        mean = sum(bits) / len(bits)
        summary = quantized(model, plan, self.embeddings, f"mixed, {mean:.3g} bits")
        summary.details["bits"] = bits  # type: ignore[index]
        return summary


@dataclass(frozen=True)
class InHalfPrecision(Method):
    """All weights in 16 bits: half the size, whatever the model.

    Attributes:
        dtype: bfloat16, or float16.
    """

    dtype: Half = "bfloat16"

    def __post_init__(self) -> None:
        self.require("dtype", self.dtype in get_args(Half), " or ".join(get_args(Half)))

    @property
    def runtime(self) -> str:
        return f"processors that compute in {self.dtype}; others may be slower than before"

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        target = getattr(torch, self.dtype)
        kept = set(model._keep_in_fp32_modules_strict or ())
        kept |= set(model._keep_in_fp32_modules or ()) if self.dtype == "float16" else set()
        halves: dict[int, nn.Parameter] = {}  # so that ties stay ties
        for path, module in model.named_modules():
            if not kept & set(path.split(".")):
                _halve(module, target, halves)
        return Summary((InHalf(self.dtype),) if halves else (), label=self.dtype)


def _halve(module: nn.Module, target: torch.dtype, halves: dict[int, nn.Parameter]) -> None:
    """Round a fork's module; buffers that are not saved stay, as when a model is loaded."""
    for name, weight in module._parameters.items():
        if weight is not None and weight.is_floating_point() and weight.dtype != target:
            half = nn.Parameter(weight.detach().to(target), weight.requires_grad)
            module._parameters[name] = halves.setdefault(id(weight), half)
    for name, value in module._buffers.items():
        saved = name not in module._non_persistent_buffers_set
        if value is not None and saved and value.is_floating_point():
            put(module, name, value.to(target))


def quantized(
    model: PreTrainedModel, plan: Mapping[str, Scheme], embeddings: bool, label: str
) -> Summary:
    """Do it to a fork, and say so."""
    full = {**_table(model, embeddings), **plan}
    if full:
        quantize(model, full)
    told = sorted((name, one.name, one.group) for name, one in full.items())
    effect = Quantized(digest(told), torchao_version())
    counts = {"quantized_layers": len(full)}
    return Summary((effect,) if full else (), counts, {}, label=label)


@cache
def torchao_version() -> str:
    """What is installed; its rounding may differ from another's."""
    return version("torchao")


def check(bench: Bench, schemes: Iterable[str]) -> None:
    """Raise PlanError, in one sentence, where the bench's model or device can do none of this."""
    quantizable(bench.model)
    for name in schemes:
        refuse(Scheme(name), bench.device, bench.model.dtype)


# -- which layers ----------------------------------------------------------------------------------


def quantizable(model: PreTrainedModel) -> dict[str, tuple[int, Kind]]:
    """The linears inside the blocks that torchao can quantize: name -> (block, kind).

    Raises PlanError where there are none.
    """
    names, row = {one: name for name, one in model.named_modules()}, family(model)
    found: dict[str, tuple[int, Kind]] = {}
    for number, block in enumerate(blocks(model)):
        paths = [path for path in (*row.expand, row.contract) if path and has(block, path)]
        feeds = {reach(block, path) for path in paths}
        looks = reach(block, row.attention) if row.attention and has(block, row.attention) else None
        inside = set(looks.modules()) if looks is not None else set()
        for one in block.modules():
            if isinstance(one, nn.Linear):
                kind: Kind = "ffn" if one in feeds else "attention" if one in inside else "other"
                found[names[one]] = (number, kind)
    if not found:
        kind_of = type(model).__name__
        raise PlanError(f"{kind_of}: its blocks have no nn.Linear, and torchao quantizes no other")
    return found


def _table(model: PreTrainedModel, wanted: bool) -> dict[str, Scheme]:
    """The token embeddings' name, where they are to be quantized."""
    table = model.get_input_embeddings() if wanted else None
    if not isinstance(table, nn.Embedding):
        return {}
    using = [
        name for name, p in model.named_parameters(remove_duplicate=False) if p is table.weight
    ]
    if len(using) > 1:
        do = "leave them out: embeddings = false"
        raise PlanError("quantize: the token embeddings are tied to the head", do=do)
    return {next(name for name, one in model.named_modules() if one is table): Scheme("int8")}


def _of_block(model: PreTrainedModel, number: int, bits: int) -> dict[str, Scheme]:
    scheme = Scheme(f"int{bits}", GROUP)
    return {name: scheme for name, (block, _) in quantizable(model).items() if block == number}


def _bytes(model: PreTrainedModel, number: int, bits: int) -> int:
    """The file's bytes of a block's weights at a width; 0 bits: as they are now."""
    total = 0.0
    for name, (block, _) in quantizable(model).items():
        if block == number:
            weight = model.get_submodule(name).weight
            groups = math.ceil(weight.shape[1] / GROUP) if bits and bits < 8 else 1
            scales = weight.shape[0] * groups * 4
            total += weight.numel() * bits / 8 + scales if bits else weight.nbytes
    return math.ceil(total)


# -- how many bits ---------------------------------------------------------------------------------


def cheapest(
    harm: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], most: int
) -> tuple[int, ...] | None:
    """Which width each block gets, so that harms add up to the least within a size.

    Exact: of all choices for the blocks so far it keeps those that no other beats in both. Of equal
    ones the smaller.

    Args:
        harm: (blocks, widths), what each does.
        sizes: (blocks, widths), in bytes.
        most: all blocks together.

    Returns:
        The widths' places; None where nothing fits.
    """
    kept: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for harms, costs in zip(harm, sizes, strict=True):
        longer = sorted(
            (size + cost, total + one, (*chosen, index))
            for size, total, chosen in kept
            for index, (one, cost) in enumerate(zip(harms, costs, strict=True))
            if size + cost <= most
        )
        kept, best = [], math.inf
        for candidate in longer:
            if candidate[1] < best:
                kept.append(candidate)
                best = candidate[1]
    return kept[-1][2] if kept else None


@torch.no_grad()
def _said(model: PreTrainedModel, batch: Batch) -> tuple[Float[Tensor, "predictions classes"], int]:
    """A model's logits at every prediction that counts, and how many there are."""
    logits: Tensor = model(**reaching(model, batch)).logits.float()
    if logits.dim() == 3:
        tower = int(bool(getattr(model.config, "is_encoder_decoder", False)))
        mask = real_positions(batch, tower)
        logits = logits.flatten(0, 1) if mask is None else logits[mask.to(logits.device)]
    return logits, len(logits)


def divergence(
    wanted: Float[Tensor, "predictions classes"], found: Float[Tensor, "predictions classes"]
) -> float:
    """The KL divergence of predictions from those wanted, in nats, summed over all."""
    one, two = wanted.double().log_softmax(-1), found.double().log_softmax(-1)
    return float((one.exp() * (one - two)).sum())
