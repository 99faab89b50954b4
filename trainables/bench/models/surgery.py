"""Taking blocks out of a model, and out of its config, so that what is saved loads as it is."""

from collections.abc import Collection

import torch
from torch import nn

from trainables.bench.models.structure import Stack, blocks, fixed_blocks, reach, stacks
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.types import PretrainedConfig, PreTrainedModel

# Config lists which may have as many entries as there are blocks by chance.
_NEVER_PER_BLOCK = ("architectures", "stage_names", "_out_features", "_out_indices")


def remove_blocks(model: PreTrainedModel, which: Collection[int]) -> None:
    """Take blocks out of the model and its config, so that what is saved loads as it is.

    Every stack keeps at least one block. Raises PlanError on a block that is not there or must
    stay. The config is edited in place: work on a fork.
    """
    count, gone = len(blocks(model)), set(which)
    if unknown := sorted(gone - set(range(count))):
        raise PlanError(f"no block {unknown}: the model has blocks 0 to {count - 1}")
    if fixed := sorted(gone & fixed_blocks(model)):
        raise PlanError(
            f"block {fixed} cannot be removed: it changes the shape, owns the bias or opens a stage"
        )
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
    if stack.stage is None:
        for name in _per_block(config, stack, len(old)):
            setattr(config, name, [getattr(config, name)[i] for i in kept])
        _rename_stages(config, len(old), len(kept))


def _per_block(config: PretrainedConfig, stack: Stack, depth: int) -> list[str]:
    """The config's lists with one entry per block of this stack, such as `layer_types`.

    Of an encoder-decoder, those of the decoder are named after it.
    """
    found = [
        name
        for name, values in vars(config).items()
        if isinstance(values, list | tuple)
        and len(values) == depth
        and name not in _NEVER_PER_BLOCK
        and not name.removesuffix("s").endswith("token_id")
    ]
    if not getattr(config, "is_encoder_decoder", False):
        return found
    return [name for name in found if name.startswith("decoder") == (stack.first > 0)]


def _rename_stages(config: PretrainedConfig, before: int, after: int) -> None:
    """A config that names a stage per block, as that of a backbone (BEiT), counts anew."""
    names = list(getattr(config, "stage_names", None) or ())
    if len(names) == before + 1:
        config.stage_names = names[: after + 1]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def _renumber(block: nn.Module, index: int) -> None:
    for module in block.modules():
        for name in ("layer_idx", "layer_id"):
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, index)


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
