"""Models whose feed-forward layers differ in width: the exact form, and a padded one.

from trainables.load import load
model = load("folder")
"""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.bench.models.families import Family
from trainables.bench.models.structure import family, reach, rows, stacks
from trainables.core.errors import PlanError
from trainables.core.fork import fork, put
from trainables.core.types import Linear, PreTrainedModel

LOAD = "from trainables.load import load\nmodel = load({folder})"
WIDTHS = ("out_features", "in_features", "nf", "nx")  # what layers say of their own shape


def save_exact(model: PreTrainedModel, folder: Path) -> str:
    """Write a model as it is; returns the Python that loads it, with `{folder}` in it."""
    model.config.save_pretrained(folder)
    names: dict[int, str] = {}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if names.setdefault(id(value), name) == name:  # tied ones once
            state[name] = value.detach().cpu().contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "exact.json").write_text(json.dumps({"class": type(model).__name__}))
    return LOAD


def load_exact(folder: str | Path) -> PreTrainedModel:
    """A model as `save_exact` wrote it."""
    import transformers
    from transformers.initialization import no_init_weights

    place = Path(folder)
    if not (place / "exact.json").exists():
        raise PlanError(f"{place}: no exact.json; give the folder of an exact form")
    name = json.loads((place / "exact.json").read_text())["class"]
    state = load_file(place / "model.safetensors")
    with no_init_weights():  # all are in the file
        model: PreTrainedModel = getattr(transformers, name)(
            transformers.AutoConfig.from_pretrained(place)
        )
    for key, value in state.items():
        put_tensor(model, key, value)
    model.tie_weights()
    return model.eval()


def put_tensor(model: PreTrainedModel, key: str, value: Tensor) -> None:
    """Put a tensor in its place, whatever shape that had."""
    path, _, name = key.rpartition(".")
    module = model.get_submodule(path)
    put(module, name, value)
    if name == "weight" and value.dim() == 2:
        _say_widths(module, value)


def _say_widths(module: nn.Module, weight: Tensor) -> None:
    from transformers.pytorch_utils import Conv1D

    inputs, outputs = weight.shape if isinstance(module, Conv1D) else reversed(weight.shape)
    for name, size in zip(WIDTHS, (outputs, inputs, outputs, inputs), strict=True):
        if hasattr(module, name):
            setattr(module, name, size)


def padded(model: PreTrainedModel) -> PreTrainedModel:
    """The same function with every feed-forward layer padded with zeros to the widest of those
    that one config field counts.

    Raises PlanError for a family whose config does not name the width.
    """
    row = family(model)
    if not row.width:
        raise PlanError(f"{row.name}: no config field holds the width of its feed-forward layers")
    wide = fork(model)
    for group in _by_field(wide).values():
        width = max(_width(block, row) for block in group)
        for block in group:
            contract: Linear = reach(block, row.contract)  # type: ignore[assignment]
            count = _width(block, row)
            for path in row.expand:
                _pad_outputs(reach(block, path), count, width)  # type: ignore[arg-type]
            put_rows(contract, nn.functional.pad(rows(contract), (0, width - count)))
    say_widths(wide)
    return wide


def say_widths(model: PreTrainedModel) -> None:
    """Write the widths of a fork's feed-forward layers into its config, as far as it can tell them:
    a field for all, for all of a stack, or a list."""
    for field, group in _by_field(model).items():
        widths = [_width(block, family(model)) for block in group]
        if isinstance(getattr(model.config, field, None), list | tuple):
            setattr(model.config, field, widths)
        elif len(set(widths)) == 1:
            setattr(model.config, field, widths[0])


def _by_field(model: PreTrainedModel) -> dict[str, list[nn.Module]]:
    """Config field -> the blocks whose feed-forward layers it counts the neurons of."""
    row, found = family(model), dict[str, list[nn.Module]]()
    for number, stack in enumerate(stacks(model)):
        if row.width:
            field = row.width[min(number, len(row.width) - 1)]
            found.setdefault(field, []).extend(stack.blocks)
    return found


def _width(block: nn.Module, row: Family) -> int:
    contract: Linear = reach(block, row.contract)  # type: ignore[assignment]
    return int(rows(contract).shape[1])


def _pad_outputs(layer: Linear, count: int, width: int) -> None:
    """Neurons that always give zero; a fused layer holds several runs of them."""
    weight = rows(layer)
    runs = weight.shape[0] // count
    put_rows(layer, _stretched(weight, runs, width))
    if layer.bias is not None:
        put(layer, "bias", _stretched(layer.bias[:, None], runs, width)[:, 0])


def _stretched(values: Tensor, runs: int, width: int) -> Tensor:
    parts = values.chunk(runs)
    return torch.cat([nn.functional.pad(p, (0, 0, 0, width - len(p))) for p in parts])


def put_rows(layer: Linear, weight: Tensor) -> None:
    """Replace a fork's weight, given as (outputs, inputs), by one of any shape."""
    from transformers.pytorch_utils import Conv1D

    value = weight.T.contiguous() if isinstance(layer, Conv1D) else weight
    put(layer, "weight", value)
    _say_widths(layer, value)


def misfits(model: PreTrainedModel) -> list[str]:
    """The tensors whose shapes the config does not tell: transformers could not load them."""
    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
    expected = {name: value.shape for name, value in twin.state_dict().items()}
    found = {name: value.shape for name, value in model.state_dict().items()}
    names = dict.fromkeys([*expected, *found])
    return [name for name in names if expected.get(name) != found.get(name)]
