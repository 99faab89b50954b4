"""The layers that a language model gives away, read without loading the model.

The config says how the layers are built and where they hang; of the weights only the tensors of
the wanted layers are read, by their names in the safetensors header or index. Of a hub id only
those of its files are fetched that hold them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from trainables.bench.assets.catalogue import ASSETS
from trainables.bench.models.hub import fetch_file
from trainables.bench.models.structure import blocks, family, stacks
from trainables.core.cache import digest_tensors
from trainables.core.errors import ModelError, PlanError, UserError
from trainables.core.places import called
from trainables.core.spec import ModelSpec
from trainables.core.types import PretrainedConfig, PreTrainedModel

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LICENCE = re.compile(r"^license(?:_name)?:\s*[\"']?([^\"'\s\[][^\"'\n]*?)[\"']?\s*$", re.MULTILINE)
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Donated:
    """Some layers of a language model.

    Attributes:
        config: the model's, of its text part.
        numbers: which layers, from 0 on.
        tensors: layer by layer, by their names inside the layer.
        licence: the model's, or "unknown".
    """

    name: str
    config: PretrainedConfig
    numbers: tuple[int, ...]
    tensors: tuple[Mapping[str, Tensor], ...]
    licence: str

    @property
    def identity(self) -> str:
        """Of the weights."""
        layers = enumerate(self.tensors)
        return digest_tensors({f"{i}.{name}": v for i, one in layers for name, v in one.items()})

    @property
    def bytes(self) -> int:
        """How much was read."""
        tensors = (value for one in self.tensors for value in one.values())
        return sum(value.numel() * value.element_size() for value in tensors)


class Donor:
    """A language model that lies in a folder, in an asset or on the hub.

    Raises UserError for one that cannot be found, is none, or whose layers are not known.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        self._folder = self._local()
        self.config = self._read_config()
        self.skeleton = skeleton(self.config, name)

    @property
    def count(self) -> int:
        """How many layers there are."""
        return len(blocks(self.skeleton))

    def number(self, layer: int) -> int:
        """A layer's number from 0 on; negative ones count from the end.

        Raises PlanError where there is no such layer.
        """
        if not -self.count <= layer < self.count:
            allowed = f"0 to {self.count - 1}, or -1 for the last"
            raise PlanError(f"layer of {self.name}", got=layer, allowed=allowed)
        return layer % self.count

    def give(self, numbers: Sequence[int], *, random: bool = False) -> Donated:
        """These layers.

        Args:
            random: with weights as a new model of this kind has them, instead of the trained ones.
        """
        chosen = tuple(self.number(one) for one in numbers)
        tensors = self._drawn(chosen) if random else tuple(map(self._tensors, chosen))
        return Donated(called(self.name), self.config, chosen, tensors, self.licence())

    def _drawn(self, numbers: Sequence[int]) -> tuple[dict[str, Tensor], ...]:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            made = layers_of(self.config, numbers)
            for one in made:
                one.apply(self.skeleton._init_weights)
        return tuple({n: v.detach() for n, v in one.state_dict().items()} for one in made)

    # -- where things lie --------------------------------------------------------------------------

    def _local(self) -> Path | None:
        """The folder, or None for a hub id."""
        place = Path(self.name).expanduser()
        near = self.name.startswith(("asset:", "new:", ".")) or place.is_absolute()
        if near or (place / "config.json").exists():
            if self.name.startswith("asset:"):
                asset = ASSETS.get(self.name.removeprefix("asset:"))
                if asset is not None and asset.kind != "model":
                    models = [f"asset:{key}" for key, one in ASSETS.items() if one.kind == "model"]
                    raise ModelError(f"{self.name} is data", allowed=", ".join(models))
            from trainables.bench.models.load import locate  # here: it needs transformers

            return locate(ModelSpec(id=self.name))
        return None

    def _file(self, name: str) -> Path | None:
        """One of the model's files, fetched where it lies on the hub; None where it has none."""
        if self._folder is None:
            return fetch_file(self.name, name, self.revision)
        path = self._folder / name
        return path if path.is_file() else None

    def _read_config(self) -> PretrainedConfig:
        from trainables.bench.models.load import load_config  # here: it needs transformers

        path = self._file("config.json")
        if path is None:
            raise ModelError(f"model {self.name!r}: it has no config.json")
        whole: Any = load_config(path.parent, ModelSpec(id=self.name))
        if getattr(whole, "quantization_config", None):
            do = "give the model it was made of"
            raise ModelError(f"model {self.name!r}: its weights are quantized", do=do)
        config: PretrainedConfig = whole.get_text_config()
        return config

    def licence(self) -> str:
        """What the model's card says, or an asset's row; "unknown" where nothing does."""
        asset = ASSETS.get(self.name.removeprefix("asset:"))
        if self.name.startswith("asset:") and asset is not None:
            return asset.licence
        try:
            card = self._file("README.md")
        except UserError:  # out of reach
            card = None
        found = _LICENCE.findall(card.read_text(encoding="utf-8")) if card else []
        named = [one for one in found if one != "other"]
        return str((named or found or [UNKNOWN])[0])

    # -- weights -----------------------------------------------------------------------------------

    def _tensors(self, number: int) -> dict[str, Tensor]:
        """The tensors of one layer, by their names in it; no other is read."""
        wanted = set(blocks(self.skeleton)[number].state_dict())
        places = self._places(number, wanted)
        files: dict[str, list[str]] = {}
        for name in sorted(wanted):
            files.setdefault(places[name][0], []).append(name)
        found: dict[str, Tensor] = {}
        for file, names in files.items():
            path = self._file(file)
            if path is None:
                raise ModelError(f"model {self.name!r}: {file} is missing")
            with safe_open(path, framework="pt") as opened:
                found |= {name: opened.get_tensor(places[name][1]) for name in names}
        return found

    def _places(self, number: int, wanted: set[str]) -> dict[str, tuple[str, str]]:
        """Name inside the layer -> (file, name in it)."""
        path = re.escape(stacks_path(self.skeleton))
        pattern = re.compile(rf"(?P<before>|.*\.){path}\.{number}\.(?P<name>.+)")
        groups: dict[str, dict[str, tuple[str, str]]] = {}
        for key, file in self._index():
            if matched := pattern.fullmatch(key):
                groups.setdefault(matched["before"], {})[matched["name"]] = (file, key)
        for found in groups.values():
            if wanted <= set(found):
                return found
        missing = min((wanted - set(found) for found in groups.values()), key=len, default=wanted)
        raise ModelError(
            f"model {self.name!r}: its weights have no {sorted(missing)[0]} of layer {number}"
        )

    def _index(self) -> Iterator[tuple[str, str]]:
        """(a tensor's name, its file)."""
        if index := self._file(_INDEX):
            yield from json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
            return
        one = self._file(_ONE)
        if one is None:
            raise ModelError(
                f"model {self.name!r} has no safetensors, of which single layers can be read",
                do="load it once with transformers and save_pretrained it into a folder",
            )
        with safe_open(one, framework="pt") as opened:
            yield from ((name, _ONE) for name in list(opened.keys()))


# -- building --------------------------------------------------------------------------------------


def skeleton(config: PretrainedConfig, name: str = "") -> PreTrainedModel:
    """The model that a config describes, without memory.

    Raises PlanError where it is no causal language model whose layers are known.
    """
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            made: PreTrainedModel = AutoModel.from_config(config)
    except (ValueError, KeyError) as error:
        raise ModelError(f"model {name!r}: {str(error).splitlines()[0]}") from error
    if not family(made).causal:
        raise PlanError(
            f"{name or type(made).__name__} gives no layer",
            got=config.model_type,
            allowed="a language model that writes from left to right, such as llama or qwen2",
        )
    return made


def stacks_path(made: PreTrainedModel) -> str:
    """Where the layers hang in the model without its head, such as `layers` or `h`."""
    (stack,) = stacks(made)
    for name, module in made.base_model.named_modules():
        if module is stack.owner:
            return f"{name}.{stack.name}" if name else stack.name
    raise PlanError(f"{type(made).__name__}: its layers are not inside it")


def layers_of(config: PretrainedConfig, numbers: Sequence[int]) -> list[nn.Module]:
    """New layers of a kind, as the model has them at these places."""
    made = skeleton(config)
    there = blocks(made)
    return [type(there[n])(made.config, layer_idx=n) for n in numbers]


def rotary_of(config: PretrainedConfig) -> nn.Module | None:
    """What tells the kind's layers about positions, where they do not know by themselves."""
    made = getattr(skeleton(config), "rotary_emb", None)
    return None if made is None else type(made)(config=config)
