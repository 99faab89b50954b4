"""Omission sets: transformer blocks that are skipped, identity on the residual stream.

A set is applied by taking the blocks out of the model, so what remains is a smaller model of the
same family. Single units, the attention or the FFN of a block, are silenced by zeroing the linear
that writes them to the residual stream: exact, but nothing gets smaller.

Source: "SLEB", Song et al., ICML 2024; "Prompt-based Depth Pruning of LLMs", Wee et al., ICML 2025
(arXiv 2502.04348).
"""

from dataclasses import dataclass

from trainables.bench.models.structure import blocks, family, stacks
from trainables.bench.models.surgery import remove_blocks, silence
from trainables.core.errors import PlanError
from trainables.core.lineage import Effect
from trainables.core.types import PreTrainedModel, Stats
from trainables.stage import Method, Removed, Summary


@dataclass(frozen=True)
class Silenced(Effect):
    """Blocks whose attention or FFN adds nothing to the residual stream any more."""

    attention: tuple[int, ...]
    ffn: tuple[int, ...]


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

    @property
    def idle(self) -> bool:
        return not (self.skip or self.attention or self.ffn)

    def __post_init__(self) -> None:
        for name in ("skip", "attention", "ffn"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            ok = {*map(type, value)} <= {int} and min(value, default=0) >= 0
            ok = ok and len({*value}) == len(value)
            self.require(name, ok, "block numbers from 0, each once")

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        count = len(blocks(model))
        for kind, numbers in self._silent().items():
            _silence(model, kind, numbers)
        remove_blocks(model, self.skip)
        silenced = Silenced(tuple(sorted(self.attention)), tuple(sorted(self.ffn)))
        removed = Removed(tuple(sorted(self.skip)))  # as similarity pruning says it: one lineage
        effects: list[Effect] = [silenced] if self.attention or self.ffn else []
        effects += [removed] if self.skip else []
        counts = {"removed": len(self.skip), "blocks": count - len(self.skip)}
        return Summary(tuple(effects), counts)

    def _silent(self) -> dict[str, tuple[int, ...]]:
        return {"attention": self.attention, "ffn": self.ffn}


def check_unit(model: PreTrainedModel, kind: str) -> None:
    """Raises PlanError where a block's attention or FFN cannot be skipped by itself."""
    row = family(model)
    if not row.pre_norm or len(stacks(model)) != 1:
        raise PlanError(f"{row.name}: skipping only the {kind} needs a pre-norm single stack")


def _silence(model: PreTrainedModel, kind: str, numbers: tuple[int, ...]) -> None:
    if not numbers:
        return
    check_unit(model, kind)
    row, everything = family(model), blocks(model)
    path = row.attention_out if kind == "attention" else row.contract
    for number in numbers:
        if number >= len(everything):
            raise PlanError(f"no block {number}: the model has 0 to {len(everything) - 1}")
        silence(everything[number], path)
