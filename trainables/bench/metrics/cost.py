"""What a model costs: parameters, bytes on disk, time and memory of a forward pass."""

import json
import socket
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from trainables.bench.models.batches import ready
from trainables.bench.models.cards import devices_of, waiter
from trainables.bench.models.packed.form import needs_packing, sizes
from trainables.bench.models.packed.quantized import schemes, transformers_state
from trainables.bench.models.packed.weights import dense, is_made, parts
from trainables.core.types import Batch

_WARM_UPS, _LEAST, _MOST, _SECONDS = 1, 3, 50, 2.0
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def count_parameters(model: nn.Module, *, learning: bool = False) -> int:
    """Weights and biases; a tied tensor counts once.

    Args:
        learning: only those that training changes.
    """
    counted = (p for p in model.parameters() if p.requires_grad or not learning)
    return sum(parameter.numel() for parameter in _distinct(counted))


def count_nonzero(model: nn.Module) -> int:
    """Parameters other than zero; a tied tensor counts once."""
    return sum(int(torch.count_nonzero(dense(p))) for p in _distinct(model.parameters()))


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({_place(tensor): tensor for tensor in tensors}.values())


def _place(tensor: Tensor) -> tuple[object, ...]:
    """The same for two tensors that are one in memory."""
    if is_made(tensor):
        return tuple(_place(part) for _, part in parts(tensor))
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return (id(tensor),)
    start = tensor.untyped_storage().data_ptr()
    return (start, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))


def saved_bytes(model: nn.Module) -> int:
    """The exact size of the file of weights that saving would write, without writing it.

    One file is assumed, which holds up to 50 GB.
    """
    if needs_packing(model):
        return file_bytes(sizes(model))
    if schemes(model):
        return file_bytes(*transformers_state(model))
    return file_bytes(_saved_state(model))


def _saved_state(model: nn.Module) -> Mapping[str, Tensor]:
    """The tensors as they are saved: tied ones once, under the names of the original format."""
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state: dict[str, Tensor] = model.state_dict()
    if not isinstance(model, PreTrainedModel):
        return _first_names(state)
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    untied = remove_tied_weights_from_state_dict(state, model)
    saved: Mapping[str, Tensor] = revert_weight_conversion(model, untied)
    return saved


def _first_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first = {_place(tensor): name for name, tensor in reversed(list(state.items()))}
    return {name: tensor for name, tensor in state.items() if first[_place(tensor)] == name}


def file_bytes(tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> int:
    """The size of a safetensors file: eight bytes, a padded JSON header, the data.

    Args:
        notes: what its header says besides its format.
    """
    header: dict[str, Any] = {"__metadata__": {**(notes or {}), "format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: (-_rank(pair[1]), pair[0])):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def _rank(tensor: Tensor) -> int:
    """safetensors puts wide types first, so that all data is aligned."""
    return tensor.element_size()


def floor(device: torch.device, cache: str) -> str:
    """Where the studies of one folder take turns: a device, whatever number a process knows it by.

    Args:
        cache: the folder that those studies share; others do not wait for them.
    """
    if device.type != "cuda":
        return f"{device.type}@{socket.gethostname()} {cache}"
    found = torch.cuda.get_device_properties(device)
    return f"{getattr(found, 'uuid', found.name)} {cache}"


@dataclass(frozen=True)
class Pace:
    """How fast a forward pass is."""

    seconds: float  # the median
    tokens: int  # in the batch, padding left out; 0 for images


def pace(model: Any, batch: Batch) -> Pace:
    """Time the forward pass on one batch, after warming up, with the device finished."""
    inputs = ready(model, batch)
    mask = inputs.get("attention_mask")
    tokens = 0 if mask is None else int(mask.sum())
    return Pace(statistics.median(pass_seconds(model, inputs)), tokens)


@torch.no_grad()
def pass_seconds(model: Any, inputs: Batch) -> list[float]:
    """How long each of several forward passes takes, after one to warm up."""
    finish = waiter(model)
    times = []
    for number in range(_WARM_UPS + _MOST):
        started = time.perf_counter()
        model(**inputs)
        finish()
        times.append(time.perf_counter() - started)
        if number >= _WARM_UPS + _LEAST - 1 and sum(times) > _SECONDS:
            break
    return times[_WARM_UPS:]


def own_bytes(model: nn.Module) -> int:
    """Memory of a model's weights and buffers; a tied tensor counts once."""
    tensors = _distinct(_held(model))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _held(model: nn.Module) -> list[Tensor]:
    """The tensors that are in memory: of those that are made of others, these."""
    every = (*model.parameters(), *model.buffers())
    return [part for tensor in every for _, part in parts(tensor)]


@torch.no_grad()
def peak_memory(model: Any, batch: Batch) -> int:
    """Bytes that a forward pass takes at its highest, whatever else is loaded.

    On CUDA: this model's own tensors and all that the allocator adds to it. On the CPU: the tensors
    that the pass makes; weights are not among them, for workers of one machine share their pages,
    nor what a kernel needs inside. So compare only numbers from one kind of device.
    """
    inputs = ready(model, batch)
    model(**inputs)  # what is made once stays out of it
    own = own_bytes(model) if model.device.type == "cuda" else 0
    return own + added_bytes(model, inputs, lambda: model(**inputs))


def added_bytes(model: Any, inputs: Batch, run: Callable[[], object]) -> int:
    """By how many bytes a run of a model grows what is in memory, at its highest: on CUDA what the
    allocator hands out, on each of the model's cards, else the tensors that are made."""
    if model.device.type == "cuda":
        return _allocated(model, run)
    alive = _Alive([*_held(model), *inputs.values()])
    with alive:
        run()
    return alive.most


def _allocated(model: Any, run: Callable[[], object]) -> int:
    finish, devices = waiter(model), devices_of(model)
    finish()
    before = sum(torch.cuda.memory_allocated(one) for one in devices)
    for one in devices:
        torch.cuda.reset_peak_memory_stats(one)
    run()
    finish()
    return sum(torch.cuda.max_memory_allocated(one) for one in devices) - before


class _Alive(TorchDispatchMode):
    """While open, follows how many bytes of new tensors there are; `most` is the highest."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in known:
            self._known[tensor.untyped_storage()] = True
        self.now = self.most = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:  # a view, or in place
            return
        self._known[storage] = True
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size
