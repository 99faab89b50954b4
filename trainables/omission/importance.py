"""How much a block, or a run of blocks, changes the residual stream: what rankings start from.

Source: block influence, "ShortGPT", Men et al., 2024 (arXiv 2403.03853); angles of contiguous
windows, "The Unreasonable Ineffectiveness of the Deeper Layers", Gromov et al., 2024
(arXiv 2403.17887).
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.bench.models.batches import reaching, real_positions
from trainables.bench.models.blockwise import Walk, watching
from trainables.bench.models.structure import blocks, run_blocks, towers
from trainables.core.errors import PlanError
from trainables.core.types import Batch, PreTrainedModel, Stats


@torch.no_grad()
def states(
    model: PreTrainedModel, batch: Batch, *, last: bool = False
) -> list[Float[Tensor, "tokens width"]]:
    """The residual stream before block 0 and after each block, in float32: of all real tokens, or
    of the last one of each text."""
    walk = Walk(model)
    entry = walk.enter(batch)
    hidden = entry.hidden
    real = real_positions(batch, 0)
    real = torch.ones(hidden.shape[:2], dtype=torch.bool) if real is None else real
    real = real.to(hidden.device)
    if last:
        count = real.cumsum(1)
        real = real & (count == count[:, -1:])
    found = [hidden[real].float()]
    for index in range(len(walk.blocks)):
        hidden = walk.step(entry, index, hidden)
        found.append(hidden[real.to(hidden.device)].float().to(real.device))
    return found


def windows(
    model: PreTrainedModel, batches: Iterable[Batch], size: int, *, last: bool = True
) -> list[float]:
    """The angle between the streams before and after every run of `size` neighbouring blocks.

    Args:
        last: at the last token of each text, as published; else a mean over all its tokens.

    Returns:
        Shares of half a turn; entry i is the window that starts at block i.
    """
    rows: list[list[float]] = []
    tokens = 0
    for batch in batches:
        seen = states(model, batch, last=last)
        if not 0 < size < len(seen):
            raise PlanError(f"a window of {size} blocks in a model of {len(seen) - 1}")
        tokens += len(seen[0])
        pairs = zip(seen, seen[size:], strict=False)
        rows.append([float(_angle(one, other).double().sum()) for one, other in pairs])
    return [sum(column) / tokens for column in zip(*rows, strict=True)]


def _angle(one: Tensor, other: Tensor) -> Tensor:
    return torch.cosine_similarity(one, other, dim=-1).clamp(-1, 1).acos() / math.pi


def block_influence(
    before: Float[Tensor, "*positions width"], after: Float[Tensor, "*positions width"]
) -> Float[Tensor, "*positions"]:
    """1 - cos of the states before and after a block, in float64."""
    cosine: Tensor = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
    return 1 - cosine


class BlockInfluence:
    """What `bench.stats` measures for rankings; a model whose blocks all keep their shape has it
    in full, others (ResNet) for those blocks that do."""

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """Block influence, 1 - E cos(state before, state after): how much a block changes things.

        Returns:
            influence: (blocks,) float64, over all positions that are not padding; 2, the most
            there can be, where a block changes the shape.
        """
        found, spans = blocks(model), towers(model)
        tower = [index for index, span in enumerate(spans) for _ in span]
        total = torch.zeros(len(found), dtype=torch.float64)
        counted = torch.zeros_like(total)
        masks: list[Tensor | None] = []

        def see(number: int, before: Tensor, after: Tensor) -> None:
            changed = _change(before, after)
            mask = masks[tower[number]]
            if mask is not None and mask.shape == changed.shape:
                changed = changed[mask.to(changed.device)]
            total[number] += changed.sum().cpu()
            counted[number] += changed.numel()

        with watching(found, see, "blocks"):
            for batch in batches:
                masks[:] = [real_positions(batch, index) for index in range(len(spans))]
                run_blocks(model, reaching(model, batch))
        return {"influence": total / counted}


def _change(before: Tensor, after: Tensor) -> Tensor:
    if before.shape != after.shape:
        return torch.tensor([2.0])
    if before.dim() == 4:  # images: (examples, channels, height, width)
        before, after = before.movedim(1, -1), after.movedim(1, -1)
    return block_influence(before, after)
