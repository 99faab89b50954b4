"""Taking blocks out of a model, and out of its config, so that what is saved loads as it is."""

from collections.abc import Collection

import torch
from torch import nn

from trainables.bench.models.structure import Stack, blocks, fixed_blocks, reach, stacks
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.types import PretrainedConfig, PreTrainedModel

# Config lists with one entry per block, which must be cut along with the blocks.
_PER_BLOCK = ("layer_types", "mlp_layer_types", "no_rope_layers", "block_types")


def remove_blocks(model: PreTrainedModel, which: Collection[int]) -> None:
    """Take blocks out of the model and its config, so that what is saved loads as it is.

    Every stack keeps at least one block. Raises PlanError on a block that is not there or must
    stay. The config is edited in place: work on a fork.
    """
    count, gone = len(blocks(model)), set(which)
    if unknown := sorted(gone - set(range(count))):
        raise PlanError(f"no block {unknown}: the model has blocks 0 to {count - 1}")
    if fixed := sorted(gone & fixed_blocks(model)):
        raise PlanError(f"block {fixed} cannot be removed: it changes the shape or owns the bias")
    if gone and getattr(model.config, "scale_attn_by_inverse_layer_idx", False):
        raise PlanError("scale_attn_by_inverse_layer_idx ties each block to its number")
    for stack in stacks(model):
        _cut(model.config, stack, {number - stack.first for number in gone})
    _mind_the_cache(model)


def _mind_the_cache(model: PreTrainedModel) -> None:
    """transformers gives a T5's decoder a cache of its encoder's depth: none if that is too few."""
    depths = [len(stack.blocks) for stack in stacks(model)]
    settings = getattr(model, "generation_config", None)
    apart = getattr(model.config, "is_encoder_decoder", False)
    if apart and settings is not None and depths[-1] > depths[0]:
        settings.use_cache = False


def _cut(config: PretrainedConfig, stack: Stack, gone: set[int]) -> None:
    old = list(stack.blocks)
    kept = [index for index in range(len(old)) if index not in gone]
    if not kept:
        raise PlanError(f"all {len(old)} blocks of {stack.name} would go; at least one must stay")
    if len(kept) == len(old):
        return
    rest = [old[index] for index in kept]
    is_list = isinstance(stack.blocks, nn.ModuleList)
    setattr(stack.owner, stack.name, nn.ModuleList(rest) if is_list else nn.Sequential(*rest))
    for index, block in enumerate(stack.blocks):
        _renumber(block, index)
    _set_depth(config, stack, len(kept))
    for field in _PER_BLOCK if stack.stage is None else ():
        values = getattr(config, field, None)
        if isinstance(values, list | tuple) and len(values) == len(old):
            setattr(config, field, [values[i] for i in kept])


def _renumber(block: nn.Module, index: int) -> None:
    for module in block.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = index  # type: ignore[assignment]


def _set_depth(config: PretrainedConfig, stack: Stack, depth: int) -> None:
    if stack.stage is None:
        setattr(config, stack.depth, depth)
    else:
        depths = list(getattr(config, stack.depth))
        depths[stack.stage] = depth
        setattr(config, stack.depth, depths)


def silence(block: nn.Module, path: str) -> None:
    """Let the linear at `path` of a fork's block write zeros: exact, but nothing gets smaller."""
    linear = reach(block, path)
    for name, parameter in list(linear.named_parameters(recurse=False)):
        put(linear, name, torch.zeros_like(parameter))
