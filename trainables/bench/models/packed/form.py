"""The packed form: a model whose weights are stored in fewer bits than transformers can say.

from trainables.load import load
model = load("folder")

`packed.json` says of every weight that is not stored as it is how it is made of the tensors in
`model.safetensors`. What `load` gives computes as the model that was saved did.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.bench.models.packed.bits import pack, packed_bytes, unpack
from trainables.bench.models.packed.quantized import (
    below_a_byte,
    put_together,
    schemes,
    taken_apart,
    transformers_loads,
)
from trainables.bench.models.packed.weights import Codes, codes_of, is_made
from trainables.bench.models.structure import rows
from trainables.core.errors import ModelError
from trainables.core.types import PreTrainedModel

MARK = "packed.json"


@dataclass
class Packed:
    """What is written: the tensors, and how weights are made of them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the weight's name


def needs_packing(model: nn.Module) -> bool:
    """Whether any weight takes fewer bits packed than transformers would write."""
    if any(_codes(module) is not None for module in model.modules()):
        return True
    if any(below_a_byte(weight) for weight in model.parameters()):
        return True
    return bool(schemes(model)) and not transformers_loads(model)  # type: ignore[arg-type]


Pack: TypeAlias = Callable[[Tensor, int], Tensor]


def packed(model: nn.Module, pack: Pack = pack) -> Packed:
    """A model's tensors as the packed form has them; tied ones once.

    Args:
        pack: puts whole numbers into so many bits each.
    """
    found, seen = Packed(), set[int]()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        codes = _codes(layer) if leaf == "weight" else None
        if is_made(value):
            found.made[name] = _take_apart(name, value, found.tensors, pack)
            continue
        if codes is None:
            found.tensors[name] = value.detach().cpu().contiguous()
            continue
        found.tensors[f"{name}.codes"] = pack(codes.indices.flatten(), codes.bits)
        found.tensors[f"{name}.book"] = codes.book.cpu().contiguous()
        found.made[name] = {
            "kind": "codebook",
            "bits": codes.bits,
            "shape": list(value.shape),
            "turned": "Conv1D" in type(layer).__name__,
        }
    return found


def sizes(model: nn.Module) -> dict[str, Tensor]:
    """Tensors as large as those that are written, some of them without content."""
    return packed(model, _sized).tensors


def _sized(values: Tensor, bits: int) -> Tensor:
    length = packed_bytes(values.numel(), bits)
    return torch.empty(length, dtype=torch.uint8, device="meta")


def save_packed(model: PreTrainedModel, folder: Path) -> str:
    """Write a model's packed form; returns the Python that loads it, with `{folder}` in it."""
    from trainables.bench.models.nonuniform import LOAD

    model.config.save_pretrained(folder)
    form = packed(model)
    save_file(form.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = {"class": type(model).__name__, "weights": form.made}
    (folder / MARK).write_text(json.dumps(told, indent=1), encoding="utf-8")
    return LOAD


def load_packed(folder: str | Path) -> PreTrainedModel:
    """A model as `save_packed` wrote it.

    Raises ModelError for a folder that is not whole.
    """
    import transformers

    from trainables.bench.models.nonuniform import put_tensor

    place = Path(folder)
    try:
        told = json.loads((place / MARK).read_text(encoding="utf-8"))
        tensors = load_file(place / "model.safetensors")
        model = getattr(transformers, told["class"])(transformers.AutoConfig.from_pretrained(place))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder}: not a whole packed form: {error}") from error
    for name, value in _unpacked(told["weights"], tensors):
        put_tensor(model, name, value)
    model.tie_weights()
    found: PreTrainedModel = model.eval()
    return found


def _unpacked(
    made: Mapping[str, Mapping[str, Any]], tensors: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """(name, weight); what is left over is stored as it is."""
    for name, how in made.items():
        yield name, _MADE[how["kind"]](name, how, tensors)
    yield from tensors.items()


# -- codes -----------------------------------------------------------------------------------------


def _codes(layer: nn.Module) -> Codes | None:
    weight = layer._parameters.get("weight")
    if weight is None or "codes" not in vars(layer):
        return None
    return codes_of(layer, rows(layer).detach())  # type: ignore[arg-type]


def _look_up(name: str, how: Mapping[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    book, shape = tensors.pop(f"{name}.book"), how["shape"]
    indices = unpack(tensors.pop(f"{name}.codes"), how["bits"], math.prod(shape))
    numbers = Codes(indices.view(len(book), -1), book).numbers()
    weight = numbers.view(shape[::-1]).T if how["turned"] else numbers.view(shape)
    found: Tensor = weight.contiguous()
    return found


# -- torchao's -------------------------------------------------------------------------------------


def _take_apart(
    name: str, weight: Tensor, tensors: dict[str, Tensor], pack: Pack
) -> dict[str, Any]:
    """Note a weight's parts: whole numbers in their bits, of parts that are all zero nothing."""
    parts, told = taken_apart(name, weight)
    bits, how = below_a_byte(weight), dict[str, Any]()
    for key, part in parts.items():
        how[key] = {"shape": list(part.shape), "dtype": str(part.dtype).removeprefix("torch.")}
        if not bool(part.float().any()):
            how[key]["zero"] = True
        elif bits and key.endswith("qdata"):
            how[key]["bits"] = bits
            tensors[key] = pack((part.flatten().int() + 2 ** (bits - 1)).to(torch.uint8), bits)
        else:
            tensors[key] = part.contiguous()
    return {"kind": "torchao", "parts": how, "told": told}


def _put_together(name: str, how: Mapping[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    parts = {key: _part(key, one, tensors) for key, one in how["parts"].items()}
    return put_together(name, how["told"], parts)


def _part(key: str, how: Mapping[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    shape, dtype = how["shape"], getattr(torch, how["dtype"])
    if how.get("zero"):
        return torch.zeros(shape, dtype=dtype)
    if bits := how.get("bits"):
        numbers = unpack(tensors.pop(key), bits, math.prod(shape)).int() - 2 ** (bits - 1)
        whole: Tensor = numbers.to(dtype).view(shape)
        return whole
    return tensors.pop(key)


_MADE = {"codebook": _look_up, "torchao": _put_together}
