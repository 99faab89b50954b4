"""What a model computes before each of its blocks, as a name.

Two models with one name for a block compute the same state there on the same data, bit for bit: all
that stands before the blocks, and every block before that one, is alike in its modules, their
settings and their tensors. A fork shares the tensors it did not replace, so most are known by where
they lie; others by their content, or where that lies on a device, by the model's lineage.
"""

import dataclasses
import functools
import json
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from trainables.bench.models.cards import follow
from trainables.bench.models.packed.weights import Codes, is_made
from trainables.bench.models.structure import Stack, family, stacks
from trainables.core.cache import digest
from trainables.core.types import PreTrainedModel

# Of configs: what tells of the whole model, or counts what its blocks tell by themselves.
_NOT_ITS = {"architectures", "stage_names", "transformers_version", "_name_or_path"}
_NOT_ITS |= {"out_features", "out_indices", "_out_features", "_out_indices"}
_WHOLE = ("eos_token_id", "architectures")  # lists that never have an entry per block
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


class Unknown(Exception):
    """Something that cannot be told from another by what it is made of."""


def place(tensor: Tensor) -> tuple[object, ...] | None:
    """Where a tensor lies in memory: the same for two that are one; None where nothing tells."""
    if is_made(tensor) or tensor.device.type == "meta" or tensor.numel() == 0:
        return None
    start = tensor.untyped_storage().data_ptr()
    return (start, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


class Base:
    """A model whose tensors are known by their names, as long as it lives."""

    def __init__(self, model: PreTrainedModel, key: str) -> None:
        self.model, self.key = model, key  # the model: so that no other tensor comes to lie there
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {found: name for name, one in named if (found := place(one)) is not None}

    def name(self, tensor: Tensor) -> str | None:
        """What the tensor is called, if it is one of the model's."""
        found = self._names.get(where) if (where := place(tensor)) is not None else None
        return None if found is None else f"{self.key} {found}"


def prefixes(model: PreTrainedModel, base: Base, lineage: str) -> list[str]:
    """What is computed before each block of a model with one stack, and after the last.

    Args:
        lineage: the key of the model's own; names what has no other name.

    Returns:
        (blocks + 1) names of 16 hex digits.
    """
    (stack,) = stacks(model)
    reader = _Reader(base, lineage)
    shared, per_block = _settings(model, stack)
    found = [digest(type(model).__name__, shared, reader.stem(model.base_model, stack))]
    for index, block in enumerate(stack.blocks):
        own = {name: values[index] for name, values in per_block.items()}
        found.append(digest(found[-1], own, reader.block(block, index)))
    return found


def _settings(model: PreTrainedModel, stack: Stack) -> tuple[str, dict[str, list[Any]]]:
    """What the config says, as text, but for what blocks tell by themselves; and its lists that
    have an entry for each."""
    depth, told = len(stack.blocks), model.config.to_dict()
    per_block = {
        name: list(values)
        for name, values in told.items()
        if isinstance(values, list | tuple) and len(values) == depth and name not in _WHOLE
    }
    apart = {stack.depth, *family(model).width, *per_block, *_NOT_ITS}
    rest = {name: value for name, value in told.items() if name not in apart}
    rest["attention"] = getattr(model.config, "_attn_implementation", None)
    return json.dumps(rest, sort_keys=True, default=repr), per_block


class _Reader:
    """Reads modules as lists of texts."""

    def __init__(self, base: Base, lineage: str) -> None:
        self.base, self.lineage = base, lineage

    def stem(self, root: nn.Module, stack: Stack) -> list[str]:
        """All that is no block; what the model's class says of itself left out."""
        blocks = {id(one) for one in stack.blocks.modules()}  # the list itself, too
        inside = [(p, m) for p, m in root.named_modules() if id(m) not in blocks]
        return self._read(inside, "stem", {id(root)})

    def block(self, block: nn.Module, index: int) -> list[str]:
        return self._read(list(block.named_modules()), f"block {index}", set())

    def _read(self, modules: list[tuple[str, nn.Module]], what: str, bare: set[int]) -> list[str]:
        try:
            return [
                text
                for path, one in modules
                for text in self._module(f"{what} {path}", one, id(one) in bare)
            ]
        except Unknown:
            return [f"{what} of {self.lineage}"]

    def _module(self, path: str, one: nn.Module, bare: bool) -> Iterator[str]:
        hooks = {*one._forward_hooks.values(), *one._forward_pre_hooks.values()}
        if hooks - {follow}:  # which changes nothing but where things lie
            raise Unknown(path)
        yield f"{path}: {type(one).__module__}.{type(one).__qualname__}"
        own = {} if bare else {n: v for n, v in vars(one).items() if n not in _TORCHS}
        yield json.dumps({"training": one.training, **_plain(own)}, sort_keys=True)
        tensors: dict[str, Tensor | None] = {**one._parameters, **one._buffers}
        for name, tensor in tensors.items():
            yield f"{name} {'none' if tensor is None else self._tensor(path, name, tensor)}"

    def _tensor(self, path: str, name: str, tensor: Tensor) -> str:
        known = self.base.name(tensor)
        if known is not None:
            return known
        if is_made(tensor):
            inner, how = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
            parts = [self._tensor(path, part, getattr(tensor, part)) for part in inner]
            return f"{type(tensor).__name__} {how} {parts}"
        if tensor.device.type != "cpu":
            return f"{path} {name} of {self.lineage}"
        return f"{tensor.dtype} {tuple(tensor.shape)} {content(tensor)}"


def content(tensor: Tensor) -> str:
    """32 hex digits of a CPU tensor's bytes."""
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    return xxhash.xxh3_128_hexdigest(flat.numpy().data)


_TORCHS = frozenset(vars(nn.Module())) | {"extra_repr"}


def _plain(value: Any) -> Any:
    """An attribute as plain data; Unknown where it is anything else."""
    if isinstance(value, _PLAIN):
        return value if isinstance(value, bool | int | str) else repr(value)
    if isinstance(value, Mapping):
        kept = ((n, v) for n, v in value.items() if not isinstance(v, Codes) and not _is_config(v))
        return {str(name): _plain(one) for name, one in kept}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, map(_plain, value)))
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"of": _named(type(value)), **_plain(vars(value))}
    if isinstance(value, functools.partial):
        return _plain(["partial", value.func, value.args, value.keywords])
    return _named(value)


def _named(value: Any) -> str:
    """A class or a function that holds nothing, by where it is defined."""
    name = getattr(value, "__qualname__", "<")
    holds = getattr(value, "__closure__", None) is not None
    plain = isinstance(value, type | types.FunctionType | types.BuiltinFunctionType)
    if not plain or "<" in name or holds:
        raise Unknown(type(value).__name__)
    return f"{value.__module__}.{name}"


def _is_config(value: Any) -> bool:
    """Whether it is the model's config, whose settings are read apart."""
    from transformers import PretrainedConfig

    return isinstance(value, PretrainedConfig)
