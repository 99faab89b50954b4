"""A device made of CPU tensors that behaves as a GPU where code forgets about devices.

`torch.device("pretend")` is torch's PrivateUse1 backend. Its tensors refuse to meet CPU tensors in
one operation, but for single numbers and indices, as on CUDA, and have no `numpy()`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import PreTrainedModel

NAME = "pretend"
_aten = torch.ops.aten
_CROSSES = {_aten.copy_.default, _aten._to_copy.default, _aten._local_scalar_dense.default}
_TAKES_INDICES = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class Pretend(Tensor):
    """A tensor on the pretended device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretend":
        made: Pretend = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    @property
    def data(self) -> "Pretend":  # type: ignore[override]
        return Pretend(self.held)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Pretend) or value.dtype != self.dtype:
            raise TypeError(f"{NAME} {self.dtype} cannot become {value.device} {value.dtype}")
        self.held = value.held

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {NAME} device type tensor to numpy; use .cpu() first")

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{NAME}({self.held})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    _refuse_strangers(function, args, kwargs)
    target = kwargs.get("device")
    stays = target is None or torch.device(target).type == NAME
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner, named = tree_map(_unwrapped, (args, kwargs))
    out = function(*inner, **named)
    if function is _aten.copy_.default and not isinstance(args[0], Pretend):
        return args[0]
    if not stays:
        return out
    return return_and_correct_aliasing(function, args, kwargs, tree_map(_wrapped, out))


def _refuse_strangers(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if function in _CROSSES:
        return
    given = args[:1] if function in _TAKES_INDICES else args
    tensors = [leaf for leaf in tree_leaves((given, kwargs)) if isinstance(leaf, Tensor)]
    if any(isinstance(t, Pretend) for t in tensors):
        strangers = [t for t in tensors if not isinstance(t, Pretend) and t.dim() > 0]
        if strangers:
            shapes = [tuple(t.shape) for t in strangers]
            raise RuntimeError(
                f"{function}: expected all tensors to be on the same device, got {NAME} and "
                f"{strangers[0].device} {shapes}"
            )


def _unwrapped(value: Any) -> Any:
    return value.held if isinstance(value, Pretend) else value


def _wrapped(value: Any) -> Any:
    return Pretend(value) if type(value) is Tensor else value


def _made(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What has no tensor to start from, such as `torch.zeros(3, device="pretend")`."""
    return _run(function, args, kwargs)


class Literals(TorchFunctionMode):
    """While open, lists become tensors of the device: `torch.tensor([1, 2], device="pretend")`,
    and in `x[:, [0, 1]]`."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        target = named.get("device")
        literal = function in (torch.tensor, torch.as_tensor) and target is not None
        if literal and torch.device(target).type == NAME and not isinstance(args[0], Pretend):
            return Pretend(function(*args, **{**named, "device": "cpu"}))
        if function is Tensor.__getitem__ and isinstance(args[0], Pretend):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            listed = (torch.tensor(one) if isinstance(one, list) else one for one in index)
            args = (args[0], tuple(listed))
        return function(*args, **named)


class _Module:
    """What torch asks of `torch.pretend`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False  # to those who look for a device to use

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Numbers come from the CPU's generator."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _register() -> torch.library.Library:
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(_made, "PrivateUse1")
    return library


_LIBRARY = _register()  # lives as long as the process


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the pretended device, in place; ties stay ties."""
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                own = nn.Parameter(Pretend(parameter.detach()), parameter.requires_grad)
                module._parameters[name] = seen.setdefault(id(parameter), own)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Pretend(buffer)
    return model
