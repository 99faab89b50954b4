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
from trainables.bench.models.blockwise import Walk
from trainables.bench.models.structure import blocks, run_blocks, towers
from trainables.bench.models.watch import watching
from trainables.core.errors import PlanError
from trainables.core.types import Batch, PreTrainedModel, Stats


@torch.no_grad()
def states(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """The residual stream before block 0 and after each block, real tokens only, in float32."""
    walk = Walk(model)
    entry = walk.enter({name: value.to(model.device) for name, value in batch.items()})
    real = batch.get("attention_mask", torch.ones(entry.hidden.shape[:2])).bool()
    hidden = entry.hidden
    found = [hidden[real].float()]
    for index in range(len(walk.blocks)):
        hidden = walk.step(entry, index, hidden)
        found.append(hidden[real].float())
    return found


def windows(model: PreTrainedModel, batches: Iterable[Batch], size: int) -> list[float]:
    """The angle, as a share of half a turn, between the streams before and after every run of
    `size` neighbouring blocks, a mean over tokens; entry i is the window that starts at block i."""
    rows: list[list[float]] = []
    tokens = 0
    for batch in batches:
        seen = states(model, batch)
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
                changed = changed[mask]
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
