"""A model over several cards: a run of blocks on each, and all else on the first.

What a module is given follows it to its card. So the model runs as any other: forked, with blocks
taken out, or begun in the middle.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.bench.models.structure import blocks
from trainables.core.errors import PlanError
from trainables.core.types import PreTrainedModel


def cards(device: torch.device, count: int) -> list[torch.device]:
    """The devices of a trial: one, or so many cards of its kind; there is one CPU."""
    if count == 1 or device.type == "cpu":
        return [device]
    return [torch.device(device.type, number) for number in range(count)]


def spread(model: PreTrainedModel, devices: Sequence[torch.device]) -> PreTrainedModel:
    """Bring a model to its devices, in place; several share its blocks, in their order, so that
    each has about as many bytes. Ties stay ties.

    Raises:
        PlanError: several, and a model whose blocks are not known, or share weights.
    """
    if len(devices) == 1:
        return model.to(devices[0])
    places, found = layout(model, len(devices)), blocks(model)
    owned = {
        (id(parameter), n) for n, block in enumerate(found) for parameter in block.parameters()
    }
    if len(owned) > len({parameter for parameter, _ in owned}):
        kind = type(model).__name__
        raise PlanError(f"{kind}: its blocks share weights", do="give a trial one GPU")
    seen: dict[int, nn.Parameter] = {}
    for block, place in zip(found, places, strict=True):
        for module in block.modules():
            _bring(module, devices[place], seen)
        block.register_forward_pre_hook(follow, with_kwargs=True)
    for module in _outside(model):
        _bring(module, devices[0], seen)
        module.register_forward_pre_hook(follow, with_kwargs=True)
    return model


def layout(model: PreTrainedModel, count: int) -> list[int]:
    """Which of several cards each block lies on; what is no block counts to the first.

    Raises PlanError where the model's blocks are not known.
    """
    sizes = [_size(block) for block in blocks(model)]
    filled = _size(model) - sum(sizes)
    part, found = (filled + sum(sizes)) / count, []
    for size in sizes:
        found.append(min(int((filled + size / 2) / part), count - 1))
        filled += size
    return found


def _size(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where a model lies, each device once."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def waiter(model: nn.Module) -> Callable[[], None]:
    """Waits until the model's devices have done all they were given."""
    found = [one for one in devices_of(model) if one.type == "cuda"]

    def wait() -> None:
        for device in found:
            torch.cuda.synchronize(device)

    return wait


def _outside(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that hold tensors and are not inside a block."""
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    return [m for m in model.modules() if id(m) not in inside and (m._parameters or m._buffers)]


def _bring(module: nn.Module, device: torch.device, seen: dict[int, nn.Parameter]) -> None:
    """A module's own tensors to a device; those it shares with others to where they are already."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            moved = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
            module._parameters[name] = seen.setdefault(id(parameter), moved)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = buffer.to(device)


def follow(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Before a module runs: what it is given comes to where it lies."""
    device = next(tensor.device for tensor in (*module.parameters(), *module.buffers()))
    return _moved(args, device), _moved(kwargs, device)


def _moved(given: Any, device: torch.device) -> Any:
    """The tensors in plain containers; a cache of keys and values knows its own way."""
    if isinstance(given, Tensor):
        return given.to(device)
    if type(given) in (tuple, list):
        return type(given)(_moved(one, device) for one in given)
    if type(given) is dict:
        return {name: _moved(one, device) for name, one in given.items()}
    return given
