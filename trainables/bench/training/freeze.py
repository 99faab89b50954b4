"""Training only a part of a pruned model: the blocks next to what was cut out.

Everything outside the blocks (stem, embeddings, final norms, head) is trained as well.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.bench.models.structure import blocks, stacks
from trainables.core.types import PreTrainedModel
from trainables.stage import PlanError, Stage, Summary


def towers(model: PreTrainedModel) -> list[range]:
    """The runs of blocks that follow each other: all of a model, or encoder and decoder."""
    found: list[range] = []
    for _, group in groupby(stacks(model), key=lambda stack: stack.depth):
        members = list(group)
        found.append(range(members[0].first, members[-1].first + len(members[-1].blocks)))
    return found


def neighbours(
    before: Sequence[int], kept: Collection[int], runs: Sequence[Collection[int]]
) -> list[int]:
    """Which kept blocks had a neighbour that is gone, counted among the kept ones."""
    run = {block: index for index, members in enumerate(runs) for block in members}
    beside = set()
    for one, other in pairwise(before):
        if run[one] == run[other] and (one in kept) != (other in kept):
            beside.add(one if one in kept else other)
    left = [block for block in before if block in kept]
    return [index for index, block in enumerate(left) if block in beside]


def cut_neighbours(
    base: PreTrainedModel, model: PreTrainedModel, history: Sequence[tuple[Stage, Summary]]
) -> list[int]:
    """The blocks of `model` next to the latest cuts: those since it was last retrained, if any.

    Args:
        base: the model before anything in `history` was done.
    """
    runs = towers(base)
    kept = before = [block for run in runs for block in run]
    retrained = True
    for effect in _effects(history):
        if "recover" in effect:
            retrained = True
        elif gone := removed(effect):
            before, retrained = (kept if retrained else before), False
            kept = [block for index, block in enumerate(kept) if index not in gone]
    if len(kept) != len(blocks(model)):
        raise PlanError(f"freeze: {len(blocks(model))} blocks, where the stages leave {len(kept)}")
    return neighbours(before, set(kept), runs)


def _effects(history: Sequence[tuple[Stage, Summary]]) -> Iterator[Mapping[str, Any]]:
    for _, summary in history:
        effect = summary.effect or {}
        yield from effect.get("chain", (effect,))


def removed(effect: Mapping[str, Any]) -> set[int]:
    """The block numbers that a stage took out of the model it found."""
    return set(effect.get("remove") or ())


@contextmanager
def frozen(model: PreTrainedModel, trained: Collection[int] | None) -> Iterator[list[int]]:
    """Inside, only the `trained` blocks (None: all) can learn; tells which cannot."""
    still = [] if trained is None else sorted(set(range(len(blocks(model)))) - set(trained))
    model.requires_grad_(True)
    for number in still:
        blocks(model)[number].requires_grad_(False)
    try:
        yield still
    finally:
        model.requires_grad_(True)


def train_mode(model: PreTrainedModel, still: Collection[int]) -> None:
    """Training mode, but for the running statistics of frozen blocks."""
    model.train()
    everything: list[nn.Module] = blocks(model)
    for number in still:
        for module in everything[number].modules():
            if isinstance(module, _BatchNorm):
                module.eval()
