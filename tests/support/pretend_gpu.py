"""A device made of CPU tensors that behaves as a GPU where code forgets about devices.

`torch.device("pretend")` is torch's PrivateUse1 backend, and there are two of its kind. Tensors of
one refuse to meet those of the other, or CPU tensors, in one operation, but for single numbers and
indices, as on CUDA, and have no `numpy()`. To torch itself both are number 0, as its engine for
gradients knows of one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
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
    index: int

    @staticmethod
    def __new__(cls, held: Tensor, index: int = 0) -> "Pretend":
        made: Pretend = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held, made.index = held, index
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(NAME, self.index)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        named = {name: value for name, value in kwargs.items() if name != "copy"}
        where = torch._C._nn._parse_to(*args, **named)[0]
        if where is None or where.type != NAME or (where.index or 0) == self.index:
            return super().to(*args, **kwargs)
        return _Crossing.apply(self, where.index or 0).to(*args, **kwargs)

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    @property
    def data(self) -> "Pretend":  # type: ignore[override]
        return Pretend(self.held, self.index)

    @data.setter
    def data(self, value: Tensor) -> None:
        if value.device != self.device or value.dtype != self.dtype:
            raise TypeError(f"{NAME} {self.dtype} cannot become {value.device} {value.dtype}")
        self.held = value.held  # type: ignore[attr-defined]

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


class _Crossing(torch.autograd.Function):
    """From one device of the kind to the other, and gradients back."""

    @staticmethod
    def forward(ctx: Any, one: Pretend, index: int) -> Pretend:
        ctx.back = one.index
        return Pretend(one.held.clone(), index)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return Pretend(grads[0].held.clone(), ctx.back), None


class _Whole(torch.autograd.Function):
    """An operation done as a whole on the values: in parts torch would make what they need on
    number 0, where it believes that all tensors are."""

    @staticmethod
    def forward(ctx: Any, function: Any, named: Any, *given: Any) -> Pretend:
        _refuse_strangers(function, given, {})
        inner = [one.held.detach().requires_grad_(one.requires_grad) for one in given]
        with torch.enable_grad():
            out = function(*inner, **named)
        ctx.inner, ctx.out, ctx.index = inner, out, given[0].index
        return Pretend(out.detach(), ctx.index)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        wanted = [one for one in ctx.inner if one.requires_grad]
        found = iter(torch.autograd.grad(ctx.out, wanted, grads[0].held))
        each = [next(found) if one.requires_grad else None for one in ctx.inner]
        return None, None, *(one if one is None else Pretend(one, ctx.index) for one in each)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    _refuse_strangers(function, args, kwargs)
    target = kwargs.get("device")
    where = torch.device("cpu" if target is None else target)
    given = [leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Pretend)]
    if given and (target is None or (where.type == NAME and not where.index)):
        where = given[0]  # what torch fills in is number 0 at all times
    stays = where.type == NAME
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner, named = tree_map(_unwrapped, (args, kwargs))
    out = function(*inner, **named)
    if function is _aten.copy_.default:
        return args[0]
    if not stays:
        return out
    index = where.index or 0
    wrapped = tree_map(lambda one: Pretend(one, index) if type(one) is Tensor else one, out)
    return return_and_correct_aliasing(function, args, kwargs, wrapped)


def _refuse_strangers(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if function in _CROSSES:
        return
    given = args[:1] if function in _TAKES_INDICES else args
    tensors = [leaf for leaf in tree_leaves((given, kwargs)) if isinstance(leaf, Tensor)]
    pretended = [t for t in tensors if isinstance(t, Pretend)]
    places = {t.device for t in tensors if t.dim() > 0}
    if pretended and (len(places) > 1 or torch.device("cpu") in places):
        shapes = [tuple(t.shape) for t in tensors]
        raise RuntimeError(
            f"{function}: expected all tensors to be on the same device, got "
            f"{' and '.join(map(str, places))} {shapes}"
        )


def _unwrapped(value: Any) -> Any:
    return value.held if isinstance(value, Pretend) else value


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
            made = function(*args, **{**named, "device": "cpu"})
            return Pretend(made, torch.device(target).index or 0)
        if function is scaled_dot_product_attention and isinstance(args[0], Pretend):
            mask = named.pop("attn_mask", None)
            given = args if mask is None else (*args, mask)
            return _Whole.apply(function, named, *given)
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
        return 2

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
