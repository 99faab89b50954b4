"""Training only a part of a pruned model: the blocks next to what was cut out.

Everything outside the blocks (stem, embeddings, final norms, head) is trained as well.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.bench.models.structure import blocks, towers
from trainables.core.errors import PlanError
from trainables.core.types import PreTrainedModel
from trainables.stage import Removed, Stage, Summary, Trained


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
    for effect in (effect for _, summary in history for effect in summary.effects):
        if isinstance(effect, Trained):
            retrained = True
        elif isinstance(effect, Removed):
            before, retrained = (kept if retrained else before), False
            kept = [block for index, block in enumerate(kept) if index not in effect.blocks]
    if len(kept) != len(blocks(model)):
        raise PlanError(f"freeze: {len(blocks(model))} blocks, where the stages leave {len(kept)}")
    return neighbours(before, set(kept), runs)


@contextmanager
def frozen(model: PreTrainedModel, trained: Collection[int] | None) -> Iterator[list[int]]:
    """Inside, only the `trained` blocks (None: all) can learn; tells which cannot."""
    still = [] if trained is None else sorted(set(range(len(blocks(model)))) - set(trained))
    unfreeze(model)
    for number in still:
        blocks(model)[number].requires_grad_(False)
    try:
        yield still
    finally:
        unfreeze(model)


def unfreeze(model: PreTrainedModel) -> None:
    """Let everything learn, but for modules that say of themselves that they never do
    (`never_learns`), or not with the parameters that are their own (`keeps_own`)."""
    model.requires_grad_(True)
    for module in _that_say(model, "never_learns"):
        module.requires_grad_(False)
    for module in _that_say(model, "keeps_own"):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _that_say(model: PreTrainedModel, word: str) -> Iterator[nn.Module]:
    yield from (module for module in model.modules() if getattr(module, word, False))


def train_mode(model: PreTrainedModel, still: Collection[int]) -> None:
    """Training mode, but for the running statistics of frozen blocks, and for modules that never
    learn."""
    model.train()
    for module in _that_say(model, "never_learns"):
        module.eval()
    for module in _that_say(model, "keeps_own"):
        if isinstance(module, _BatchNorm):
            module.eval()
    everything: list[nn.Module] = blocks(model) if still else []
    for number in still:
        for module in everything[number].modules():
            if isinstance(module, _BatchNorm):
                module.eval()
