"""Finding a model's blocks and their parts, and the few edits every method needs.

A family is found by its structure: the first row of families.py whose paths lead to all lists of
blocks, every block with the row's parts. A *block* is one residual block; blocks are numbered
through all stacks of a model in order (T5: encoder, then decoder; ResNet: stage by stage).
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from trainables.bench.models.families import FAMILIES, Family
from trainables.core.errors import PlanError
from trainables.core.types import IGNORED, Linear, PreTrainedModel


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
        """Blocks (numbered in the model) that carry something the others need, and the first of
        each of several stages, which a config cannot count as empty."""
        kept = set() if self.stage is None else {self.first}
        for index, block in enumerate(self.blocks):
            shortcut = getattr(block, "shortcut", None)
            if shortcut is not None and not isinstance(shortcut, nn.Identity):
                kept.add(self.first + index)
        owners = [index for index, block in enumerate(self.blocks) if has(block, _RELATIVE_BIAS)]
        if len(owners) < len(self.blocks):  # UMT5 has one in every block
            kept |= {self.first + index for index in owners}
        return kept


_RELATIVE_BIAS = "layer.0.SelfAttention.relative_attention_bias"


def family(model: PreTrainedModel) -> Family:
    """The row that describes this model; PlanError, naming the model, if none does."""
    for row in FAMILIES:
        if _describes(row, model):
            return row
    raise PlanError(
        f"{type(model).__name__} ({model.config.model_type}): no family in families.py has its "
        f"structure{_why(model)}; known are {', '.join(row.name for row in FAMILIES)}"
    )


def _describes(row: Family, model: PreTrainedModel) -> bool:
    """Whether all lists of blocks are the row's, each as deep as the config says, and every block
    has the row's parts."""
    found: list[nn.Module] = []
    for path, depth in row.stacks:
        lists = [reach(o, name) for o, name in _owners(model.base_model, path) if has(o, name)]
        if not lists or not all(_fits(row, blocks) for blocks in lists):
            return False
        counts = [len(blocks) for blocks in lists]  # type: ignore[arg-type]
        if getattr(model.config, depth, None) not in (counts, tuple(counts), counts[0]):
            return False
        found += lists
    if model.config.is_encoder_decoder and len(row.stacks) < 2:
        return False
    return not any(_others(model.base_model, {id(blocks) for blocks in found}))


def _fits(row: Family, blocks: nn.Module) -> bool:
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or len(blocks) == 0:
        return False
    parts = [row.attention, row.attention_out, row.ffn, row.contract, *row.expand]
    return all(has(block, part) for block in blocks for part in parts if part)


def _others(root: nn.Module, known: Collection[int]) -> Iterator[nn.ModuleList]:
    """The lists of blocks that are not among the known ones, nor inside them, nor parts of another
    model that say of themselves where they come from."""
    for child in root.children():
        if id(child) in known or getattr(child, "from_elsewhere", False):
            continue
        inside = any(id(module) in known for module in child.modules())
        if isinstance(child, nn.ModuleList) and not inside and _are_blocks(child):
            yield child
        else:
            yield from _others(child, known)


def _are_blocks(found: nn.ModuleList) -> bool:
    """Whether these are alike, and each made of several layers with weights."""
    weighty = [[m for m in one.modules() if m._parameters] for one in found]
    return len({type(one) for one in found}) == 1 and all(len(layers) > 1 for layers in weighty)


def _why(model: PreTrainedModel) -> str:
    """What is known to be in the way: experts fused into one tensor."""
    for name, parameter in model.base_model.named_parameters():
        if parameter.dim() == 3 and "expert" in name:
            return f" (its experts are fused: {name})"
    return ""


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


def last_logits(model: PreTrainedModel, labels: torch.Tensor) -> tuple[dict[str, int], int]:
    """What asks a model for no logits before the first that labels need, where it can leave them
    out; and the position of that first one."""
    labelled = (labels != IGNORED).any(0).nonzero()
    can = len(labelled) and leaves_out_logits(model)
    start = max(int(labelled[0]) - 1, 0) if can else 0
    return ({"logits_to_keep": labels.shape[1] - start} if start else {}), start


def fixed_blocks(model: PreTrainedModel) -> set[int]:
    """Blocks that can never be removed: shape-changing or first of a stage (ResNet, ConvNeXt), the
    only one of its stack with a relative bias (T5)."""
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
