"""Weights that torchao holds: under which scheme, and as what they are stored.

torchao is imported where it is needed: the driver knows the schemes, and none of their kernels.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.bench.models.packed.weights import is_made
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.types import PreTrainedModel

_NAME = "scheme"  # the layer's attribute
_WIDTHS = range(2, 9)  # bits of whole numbers
KERNEL = "int4-kernel"


@dataclass(frozen=True)
class Scheme:
    """How one layer's weight is held.

    Attributes:
        name: a key of `NEEDS`.
        group: inputs that share a scale, for whole numbers below 8 bits; a row that it does not
            divide has one scale.
    """

    name: str
    group: int = 32

    @property
    def bits(self) -> int:
        """Per weight, scales aside."""
        return int(self.name[3]) if self.name.startswith("int") else 8

    def config(self, layer: nn.Module) -> Any:
        """What torchao calls it, for this layer."""
        from torchao import quantization as ao
        from torchao.quantization.granularity import PerAxis, PerGroup

        weight: Tensor = layer.weight  # type: ignore[assignment]
        inputs = weight.shape[-1]
        if isinstance(layer, nn.Embedding):
            return ao.IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0))
        if self.name == KERNEL:
            packing = "tile_packed_to_4d"
            return ao.Int4WeightOnlyConfig(
                group_size=self.group, int4_packing_format=packing, set_inductor_config=False
            )
        if self.name in _CONFIGS:
            return getattr(ao, _CONFIGS[self.name])(set_inductor_config=False)
        grain = PerAxis(0) if inputs % self.group else PerGroup(self.group)
        whole = getattr(torch, f"int{self.bits}")
        return ao.IntxWeightOnlyConfig(weight_dtype=whole, granularity=grain)


_CONFIGS = {
    "int8": "Int8WeightOnlyConfig",
    "int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
    "float8": "Float8WeightOnlyConfig",
    "float8-dynamic": "Float8DynamicActivationFloat8WeightConfig",
}
# Scheme -> what a model under it needs to be faster, or take less memory, than before.
NEEDS: Mapping[str, str] = {
    "int8": "whose weights take 8 bits in memory; faster only with kernels for them, such as "
    "torch.compile makes for a GPU",
    "int8-dynamic": "whose weights take 8 bits in memory; faster where 8-bit products are (VNNI, "
    "AMX, CUDA), mostly through torch.compile",
    "float8": "whose weights take 8 bits in memory; faster on a GPU of compute capability 8.9 on",
    "float8-dynamic": "and a GPU of compute capability 8.9 on",
    KERNEL: "a GPU of compute capability 8.0 on, and bfloat16",
    **{
        f"int{bits}": f"{bits} bits per weight in the file, 8 in memory; faster nowhere without "
        "kernels for such numbers"
        for bits in _WIDTHS[:-1]
    },
}


def note_scheme(layer: nn.Module, scheme: Scheme) -> None:
    """Remember how a layer's weight is held."""
    setattr(layer, _NAME, scheme)


def schemes(model: nn.Module) -> dict[str, Scheme]:
    """The layers whose weights torchao holds, by name."""
    found = {name: vars(one).get(_NAME) for name, one in model.named_modules()}
    return {name: one for name, one in found.items() if isinstance(one, Scheme)}


def quantize(model: PreTrainedModel, plan: Mapping[str, Scheme]) -> None:
    """Let torchao hold the weights of a fork's layers, by their names."""
    from torchao.quantization import quantize_

    quantize_(model, _config(model, plan), filter_fn=None)
    for name, scheme in plan.items():
        note_scheme(model.get_submodule(name), scheme)


def _config(model: nn.Module, plan: Mapping[str, Scheme]) -> Any:
    from torchao.quantization import FqnToConfig

    layers = {name: model.get_submodule(name) for name in plan}
    return FqnToConfig(OrderedDict((n, plan[n].config(one)) for n, one in layers.items()))


def refuse(scheme: Scheme, device: torch.device, dtype: torch.dtype) -> None:
    """Raise PlanError, in one sentence, where a device cannot compute under a scheme.

    Found out by doing it once to a small layer.
    """
    layer = nn.Sequential(nn.Linear(256, 256)).to(device, dtype)
    try:
        quantize(layer, {"0": scheme})  # type: ignore[arg-type]
        with torch.no_grad():
            layer(torch.zeros(32, 256, device=device, dtype=dtype))
    except Exception as error:  # torchao raises all kinds
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PlanError(
            f"quantize: {scheme.name} does not run on {device.type} in {str(dtype)[6:]}: {said}",
            do=f"{scheme.name}: torchao, {NEEDS[scheme.name]}",
        ) from error


# -- the packed form -------------------------------------------------------------------------------


def below_a_byte(tensor: Tensor) -> int:
    """The bits of each whole number of a weight that torchao keeps in bytes; 0 if not such."""
    kind = str(getattr(tensor, "target_dtype", "")).removeprefix("torch.int")
    return int(kind) if is_made(tensor) and kind.isdigit() and int(kind) < 8 else 0


def taken_apart(name: str, weight: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A weight's parts by their names, and how it is put together again."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors, told = flatten_tensor_state_dict({name: weight.detach().cpu()})
    return tensors, json.loads(told[name])


def put_together(name: str, how: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """The inverse of `taken_apart`."""
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    told = {"tensor_names": json.dumps([name]), name: json.dumps(how)}
    found, _ = unflatten_tensor_state_dict(dict(tensors), told)
    weight: Tensor = found[name]
    return weight


# -- transformers' form ----------------------------------------------------------------------------


def for_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """A fork that `save_pretrained` takes, with a config that tells transformers how to load it."""
    from transformers import TorchAoConfig
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    own = fork(model)
    plan = schemes(own)
    table = any(isinstance(own.get_submodule(name), nn.Embedding) for name in plan)
    config = TorchAoConfig(_config(own, plan), include_input_output_embeddings=table)
    own.config.quantization_config = config
    own.hf_quantizer = TorchAoHfQuantizer(config, pre_quantized=True)
    return own


def transformers_state(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header's notes that transformers writes of such a model."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    state, notes = flatten_tensor_state_dict(model.state_dict())
    kept = {name: value for name, value in state.items() if name not in _tied(model)}
    return kept, notes


def _tied(model: PreTrainedModel) -> set[str]:
    """The names that transformers leaves out, as they are tied to others."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    plain = {name: one for name, one in model.state_dict().items() if not is_made(one)}
    return set(plain) - set(remove_tied_weights_from_state_dict(dict(plain), model))


def transformers_loads(model: PreTrainedModel) -> bool:
    """Whether transformers would load what it writes of such a model: torchao's tensors survive
    neither another name nor, beside them, one of the model itself (BART's `final_logits_bias`)."""
    from transformers.core_model_loading import revert_weight_conversion

    from trainables.bench.models.nonuniform import misfits

    if misfits(model):  # uneven widths
        return False
    plain = {name: torch.empty(1) for name in model.state_dict()}
    renamed = set(plain) != set(revert_weight_conversion(model, plain))
    return not renamed and all("." in name for name in plain)
