"""Training by adapters of low rank (LoRA, Hu et al. 2021), through peft, merged at the end.

The model's own weights stay as they are, in their dtype, shared with all other trials; what learns
is a product of two thin float32 matrices beside each linear layer of the blocks. In the end every
layer gets a new weight, its own plus that product. Where a weight is zero it stays zero: such a
layer computes with the merged, masked weight all the while, so that what was trained is what comes
out.
"""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.bench.models.structure import blocks, linears
from trainables.bench.training.freeze import unfreeze
from trainables.bench.training.loop import seeded
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.spec import TrainSpec
from trainables.core.types import PreTrainedModel

ADAPTER = "default"  # peft's own name for the only one


@contextmanager
def adapted(
    model: PreTrainedModel, spec: TrainSpec, trained: Collection[int] | None = None, seed: int = 0
) -> Iterator[None]:
    """Inside, adapters learn in place of the model's weights; after it they are merged. Nothing is
    done where the spec asks for none.

    Args:
        trained: the blocks that learn; None: all.
        seed: of what the adapters begin with.

    Raises PlanError for a model without a layer that can take one.
    """
    if not spec.lora_rank:
        yield
        return
    targets = _targets(model, trained)
    masks = {name: layer.weight == 0 for name, layer in targets.items() if _zeros(layer)}
    with seeded(seed, model.device):
        _inject(model, spec, list(targets))
    layers = {name: model.get_submodule(name) for name in targets}
    for name, mask in masks.items():
        layers[name].forward = partial(_masked, layers[name], ~mask)
    still = [m for name, m in model.named_modules() if ".lora_" not in name and _holds(m)]
    for module in still:
        module.keeps_own = True  # type: ignore[assignment]
    try:
        yield
        for name, layer in layers.items():
            put(targets[name], "weight", _merged(layer, masks.get(name)))
    finally:
        for module in still:
            del module.keeps_own
        for name in layers:
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, targets[name])
        model.__dict__.pop("peft_config", None)
        unfreeze(model)


def _targets(model: PreTrainedModel, trained: Collection[int] | None) -> dict[str, Any]:
    from transformers.pytorch_utils import Conv1D

    every = blocks(model)
    learning = [block for n, block in enumerate(every) if trained is None or n in trained]
    chosen = {id(module) for block in learning for module in block.modules()}
    found = {
        name: layer
        for name, layer in linears(model).items()
        if id(layer) in chosen and type(layer) in (nn.Linear, Conv1D)
    }
    if not found:
        do = "train without lora_rank"
        raise PlanError("lora_rank: no plain linear layer learns in this model", do=do)
    return found


def _inject(model: PreTrainedModel, spec: TrainSpec, names: list[str]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=spec.lora_rank, lora_alpha=spec.lora_alpha, target_modules=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a layer of GPT-2's kind is turned, it says
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()


def _zeros(layer: Any) -> bool:
    weight: Tensor = layer.weight
    return weight.device.type != "meta" and bool((weight == 0).any())


def _holds(module: nn.Module) -> bool:
    """Whether it has parameters of its own."""
    return next(module.parameters(recurse=False), None) is not None


def _delta(layer: Any) -> Tensor:
    """What the adapter adds to the layer's weight, float32, in the weight's layout."""
    found: Tensor = layer.get_delta_weight(ADAPTER)
    return found


def _merged(layer: Any, mask: Tensor | None) -> Tensor:
    weight: Tensor = layer.base_layer.weight
    with torch.no_grad():
        delta = _delta(layer)
        if mask is not None:
            delta = delta.masked_fill(mask, 0)
        return (weight.float() + delta).to(weight.dtype)


def _masked(layer: Any, keep: Tensor, x: Tensor) -> Tensor:
    """The layer's forward with the weight that comes out in the end."""
    base = layer.base_layer
    weight = (base.weight.float() + _delta(layer) * keep).to(base.weight.dtype)
    if isinstance(base, nn.Linear):
        return F.linear(x, weight, base.bias)
    flat = torch.addmm(base.bias, x.reshape(-1, x.shape[-1]), weight)
    return flat.view(*x.shape[:-1], -1)
