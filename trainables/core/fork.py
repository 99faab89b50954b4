"""Copy-on-write forks: a trial gets its own modules, and shares every tensor it does not change.

A tensor of a fork may be shared with the base model and all other trials of the worker: methods
never write into one, they `put` a new one in its place. Training needs `own` first.
"""

import copy

from torch import Tensor, nn

from trainables.core.types import PreTrainedModel


def fork(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules and the config that shares all tensors (ties stay ties)."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(model, memo)


def put(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace a parameter or a buffer of a fork's module by a new tensor."""
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(value, requires_grad=value.is_floating_point())
    else:
        module._buffers[name] = value


def own(model: PreTrainedModel) -> None:
    """Give the fork its own tensors, so that it can be trained in place (ties stay ties)."""
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                mine = seen.setdefault(id(parameter), nn.Parameter(parameter.detach().clone()))
                module._parameters[name] = mine
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.clone()
