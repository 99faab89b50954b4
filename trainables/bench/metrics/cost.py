"""What a model costs: parameters, bytes on disk, time and memory of a forward pass."""

import contextlib
import ctypes
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.bench.models.batches import ready
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


def count_parameters(model: nn.Module) -> int:
    """Weights and biases; a tied tensor counts once."""
    return sum(parameter.numel() for parameter in _distinct(model.parameters()))


def count_nonzero(model: nn.Module) -> int:
    """Parameters other than zero; a tied tensor counts once."""
    return sum(int(torch.count_nonzero(p)) for p in _distinct(model.parameters()))


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({_place(tensor): tensor for tensor in tensors}.values())


def _place(tensor: Tensor) -> tuple[object, ...]:
    """The same for two tensors that are one in memory."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return (id(tensor),)
    start = tensor.untyped_storage().data_ptr()
    return (start, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))


def saved_bytes(model: nn.Module) -> int:
    """The exact size of the file `save_pretrained` would write, without writing it.

    One file is assumed, which holds up to 50 GB.
    """
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


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file: eight bytes, a padded JSON header, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
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


@dataclass(frozen=True)
class Pace:
    """How fast a forward pass is."""

    seconds: float  # the median
    tokens: int  # in the batch, padding left out; 0 for images


@torch.no_grad()
def pace(model: Any, batch: Batch) -> Pace:
    """Time the forward pass on one batch, after warming up, with the device finished."""
    inputs = ready(model, batch)
    finish = _waiter(model.device)
    times = []
    for number in range(_WARM_UPS + _MOST):
        started = time.perf_counter()
        model(**inputs)
        finish()
        times.append(time.perf_counter() - started)
        if number >= _WARM_UPS + _LEAST - 1 and sum(times) > _SECONDS:
            break
    mask = inputs.get("attention_mask")
    return Pace(statistics.median(times[_WARM_UPS:]), 0 if mask is None else int(mask.sum()))


def _waiter(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


@torch.no_grad()
def peak_memory(model: Any, batch: Batch) -> int:
    """Bytes that a forward pass takes at its highest.

    On CUDA: all that torch has allocated at that moment, the weights among it. On the CPU: by how
    much the process grows during the pass; weights are not among it, for workers of one machine
    share their pages. So compare only numbers from one kind of device.
    """
    inputs = ready(model, batch)
    model(**inputs)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        model(**inputs)
        return int(torch.cuda.max_memory_allocated(model.device))
    with _growth() as grown:
        model(**inputs)
    return grown[0]


@contextlib.contextmanager
def _growth() -> Iterator[list[int]]:
    """Notes by how many bytes the process grew at most."""
    grown: list[int] = []
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else the pass would reuse what malloc holds back
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = _resident("VmRSS")
    yield grown
    grown.append(max(_resident("VmHWM") - before, 0))


def _resident(field: str) -> int:
    """Bytes of memory the process has (VmRSS) or had at most (VmHWM)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
