"""Omission sets: transformer blocks that are skipped, identity on the residual stream.

A set is applied by taking the blocks out of the model, so what remains is a smaller model of the
same family. Single units, the attention or the FFN of a block, are silenced by zeroing the linear
that writes them to the residual stream: exact, but nothing gets smaller.

Source: "SLEB", Song et al., ICML 2024; "Prompt-based Depth Pruning of LLMs", Wee et al., ICML 2025
(arXiv 2502.04348); block influence: "ShortGPT", Men et al., 2024 (arXiv 2403.03853).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.bench.models.structure import blocks, family, reach, remove_blocks, run_blocks, stacks
from trainables.bench.models.fork import put
from trainables.core.types import PreTrainedModel
from trainables.stage import Batch, Method, PlanError, Stats, Summary


@dataclass(frozen=True)
class Omission(Method):
    """Skip whole blocks, or only their attention or FFN.

    Attributes:
        skip: block numbers, 0-based in the model as the stage finds it, in any order.
        attention: blocks of which only the attention is skipped (pre-norm families).
        ffn: blocks of which only the FFN is skipped (pre-norm families).
    """

    skip: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("skip", "attention", "ffn"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            ok = all(type(n) is int and n >= 0 for n in value) and len(set(value)) == len(value)
            self.require(name, ok, "block numbers from 0, each once")

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """Block influence, 1 - E cos(state before, state after): how much a block changes things.

        Returns:
            influence: (blocks,) float64, over all tokens that are not padding. For information
            (a space may rank blocks by it); `apply` does not need it.
        """
        return {"influence": _influence(model, batches)}

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        count = len(blocks(model))
        for kind, numbers in self._silent().items():
            _silence(model, kind, numbers)
        remove_blocks(model, self.skip)
        silent = {kind: sorted(n) for kind, n in self._silent().items() if n}
        effect: dict[str, Any] = {"silence": silent} if silent else {}
        if self.skip:
            effect["remove"] = sorted(self.skip)  # the word of similarity pruning: one lineage
        counts = {"removed": len(self.skip), "blocks": count - len(self.skip)}
        return Summary(effect or None, counts)

    def _silent(self) -> dict[str, tuple[int, ...]]:
        return {"attention": self.attention, "ffn": self.ffn}


def block_influence(
    before: Float[Tensor, "*positions width"], after: Float[Tensor, "*positions width"]
) -> Float[Tensor, "*positions"]:
    """1 - cos of the states before and after a block, in float64."""
    cosine: Tensor = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
    return 1 - cosine


@torch.no_grad()
def _influence(model: PreTrainedModel, batches: Iterable[Batch]) -> Float[Tensor, " blocks"]:
    modules = blocks(model)
    total = torch.zeros(len(modules), dtype=torch.float64)
    counted = torch.zeros_like(total)
    masks: list[Tensor | None] = [None]

    def listen(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            changed = block_influence(before, out[0] if isinstance(out, tuple) else out)
            mask = masks[0]
            if mask is not None and mask.shape == changed.shape:
                changed = changed[mask]
            total[index] += changed.sum().cpu()
            counted[index] += changed.numel()

        return hook

    handles = [m.register_forward_hook(listen(i), with_kwargs=True) for i, m in enumerate(modules)]
    try:
        for batch in batches:
            mask = batch.get("attention_mask")
            masks[0] = None if mask is None else mask.bool()
            run_blocks(model, {n: value for n, value in batch.items() if n != "labels"})
    finally:
        for handle in handles:
            handle.remove()
    if not counted.all():
        raise PlanError("block influence: the calibration data did not reach every block")
    return total / counted


def _silence(model: PreTrainedModel, kind: str, numbers: tuple[int, ...]) -> None:
    if not numbers:
        return
    row = family(model)
    if not row.pre_norm or len(stacks(model)) != 1:
        raise PlanError(f"{row.name}: skipping only the {kind} needs a pre-norm single stack")
    everything = blocks(model)
    path = row.attention_out if kind == "attention" else row.contract
    for number in numbers:
        if number >= len(everything):
            raise PlanError(f"no block {number}: the model has 0 to {len(everything) - 1}")
        linear = reach(everything[number], path)
        for name, parameter in list(linear.named_parameters(recurse=False)):
            put(linear, name, torch.zeros_like(parameter))
