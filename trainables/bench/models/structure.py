"""Finding a model's blocks and their parts, and the few edits every method needs.

A family is found by its structure: the first row of families.py whose paths lead to blocks of the
right shape. A *block* is one residual block; blocks are numbered through all stacks of a model in
order (T5: encoder, then decoder; ResNet: stage by stage).
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from trainables.bench.models.families import FAMILIES, Family
from trainables.core.errors import PlanError
from trainables.core.types import Linear, PreTrainedModel


def reach(root: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path; negative numbers count from a list's end.

    Raises AttributeError if there is none.
    """
    here = root
    for part in filter(None, path.split(".")):
        if part.lstrip("-").isdigit():
            children = list(here.children())
            index = int(part)
            if not -len(children) <= index < len(children):
                raise AttributeError(path)
            here = children[index]
        else:
            here = getattr(here, part)
    return here


def has(root: nn.Module, path: str) -> bool:
    """Whether `reach` finds a module there."""
    try:
        return isinstance(reach(root, path), nn.Module)
    except AttributeError:
        return False


@dataclass(frozen=True)
class Stack:
    """One run of blocks: where it hangs, what counts its depth, and which blocks must stay."""

    owner: nn.Module  # the module that holds the list
    name: str  # the list's name in its owner
    depth: str  # the config field
    stage: int | None  # the entry of that field, where it is a list (ResNet)
    first: int  # the number of this stack's first block in the model

    @property
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        found = getattr(self.owner, self.name)
        if not isinstance(found, nn.ModuleList | nn.Sequential):
            raise TypeError(f"{self.name} is a {type(found).__name__}, not a list of blocks")
        return found

    def fixed(self) -> set[int]:
        """Blocks (numbered in the model) that carry something the others need."""
        kept = set()
        for index, block in enumerate(self.blocks):
            shortcut = getattr(block, "shortcut", None)
            changes_shape = shortcut is not None and not isinstance(shortcut, nn.Identity)
            if changes_shape or has(block, "layer.0.SelfAttention.relative_attention_bias"):
                kept.add(self.first + index)
        return kept


def family(model: PreTrainedModel) -> Family:
    """The row that describes this model; PlanError, naming the model, if none does."""
    for row in FAMILIES:
        if all(_fits(row, blocks) for blocks in _lists(model, row)) and _lists(model, row):
            return row
    raise PlanError(
        f"{type(model).__name__} ({model.config.model_type}): no family in families.py has its "
        f"structure; known are {', '.join(row.name for row in FAMILIES)}"
    )


def _lists(model: PreTrainedModel, row: Family) -> list[nn.Module]:
    root = model.base_model
    return [
        reach(owner, name)
        for path, _ in row.stacks
        for owner, name in _owners(root, path)
        if has(owner, name)
    ]


def _fits(row: Family, blocks: nn.Module) -> bool:
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or len(blocks) == 0:
        return False
    parts = [row.attention, row.attention_out, row.ffn, row.contract, *row.expand]
    return all(has(blocks[0], part) for part in parts if part)


def _owners(root: nn.Module, path: str) -> Iterator[tuple[nn.Module, str]]:
    """(the module that holds the list, the list's name); `*` runs over a list's children."""
    head, star, tail = path.partition(".*.")
    if star and has(root, head):
        for child in reach(root, head).children():
            yield from _owners(child, tail)
    elif not star:
        parent, _, name = path.rpartition(".")
        if has(root, parent):
            yield reach(root, parent), name


def stacks(model: PreTrainedModel) -> list[Stack]:
    """The model's stacks of blocks, in order."""
    found: list[Stack] = []
    first = 0
    for path, depth in family(model).stacks:
        for stage, (owner, name) in enumerate(_owners(model.base_model, path)):
            stack = Stack(owner, name, depth, stage if ".*." in path else None, first)
            found.append(stack)
            first += len(stack.blocks)
    return found


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """All blocks, numbered as everywhere."""
    return [block for stack in stacks(model) for block in stack.blocks]


def run_blocks(model: PreTrainedModel, batch: Mapping[str, Any]) -> None:
    """Let a batch run through all blocks, for what listens there; a decoder's head, whose logits
    over a whole vocabulary can cost more than its blocks, gets only the last position."""
    model(**batch, **({"logits_to_keep": 1} if leaves_out_logits(model) else {}))


def leaves_out_logits(model: PreTrainedModel) -> bool:
    """Whether its forward takes `logits_to_keep`, how many last positions to give logits of."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def fixed_blocks(model: PreTrainedModel) -> set[int]:
    """Blocks that can never be removed: shape-changing (ResNet), owning the relative bias (T5)."""
    return set().union(*(stack.fixed() for stack in stacks(model)))


def linears(model: PreTrainedModel) -> dict[str, Linear]:
    """The weight matrices inside the blocks, by name in the model; never embeddings or heads."""
    from transformers.pytorch_utils import Conv1D

    names = {module: name for name, module in model.named_modules()}
    return {
        names[module]: module
        for block in blocks(model)
        for module in block.modules()
        if isinstance(module, nn.Linear | Conv1D | nn.Conv2d)
    }


def rows(layer: Linear) -> torch.Tensor:
    """The weight as (outputs, inputs), whatever way the layer stores it."""
    from transformers.pytorch_utils import Conv1D

    weight: torch.Tensor = layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight.flatten(1)


def unrows(layer: Linear, weight: torch.Tensor) -> torch.Tensor:
    """The inverse of `rows`."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(layer, Conv1D):
        return weight.T.contiguous()
    return weight.reshape(layer.weight.shape)


def towers(model: PreTrainedModel) -> list[range]:
    """The runs of blocks that follow each other: all of a model, or encoder and decoder."""
    found: list[range] = []
    for _, group in groupby(stacks(model), key=lambda stack: stack.depth):
        members = list(group)
        found.append(range(members[0].first, members[-1].first + len(members[-1].blocks)))
    return found
