"""Models with a plugged layer: of the small model's own family, with a plug and a head.

    encoder -> first token (or mean) -> plug -> head          a classifier
    encoder -> plug -> decoder                                 one that writes

Each is a class of its family's (a BERT with a plug is a `BertPreTrainedModel`), so that its blocks,
config and weights are where everybody looks for them. What is special stands in `config.plug`.
Source: "Plug-in and Fine-tuning", Kim et al., ACL 2025 (arXiv 2506.07424).
"""

import functools
import inspect
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.bench.models.structure import family
from trainables.core.errors import ModelError, PlanError
from trainables.core.fork import fork
from trainables.core.types import PretrainedConfig, PreTrainedModel
from trainables.ilm.states import pooled
from trainables.plugin.donor import Donated
from trainables.plugin.layer import Plug

Pooling: TypeAlias = Literal["first", "mean", "last"]
MARKER = "plugged.json"
_OWN = ("_modules", "config")  # what a model with a plug has for itself
_LOAD = "from trainables.load import load\nmodel = load({folder})"


class _Plugged(nn.Module):
    """What both kinds have: they say what they contain, and save themselves."""

    config: Any
    plug: Plug | None

    def save_to(self, folder: Path) -> str:
        """Write the folder; returns the Python that loads it."""
        saved: Any = self
        saved.save_pretrained(folder)
        told = {**self.config.plug, "class": type(self).__name__}
        (folder / MARKER).write_text(json.dumps(told, indent=2), encoding="utf-8")
        return _LOAD

    @property
    def contains(self) -> Mapping[str, str]:
        """What of others is in it -> its licence."""
        plug = self.config.plug
        if plug["config"] is None:
            return {}
        numbers = ", ".join(map(str, plug["layers"]))
        what = f"layer {numbers} (from 0 on) of {plug['donor']}"
        return {f"{what}, with random weights" if plug["random"] else what: plug["licence"]}


class _Classifier(_Plugged):
    """An encoder, a plug on what it makes of a text, and the head of the source."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        own: Any = self
        setattr(self, own.base_model_prefix, _base(own.encoder_class, config))
        plug, size = config.plug, config.hidden_size
        self.plug = None if plug["config"] is None else _new_plug(config)
        self.classifier = nn.Sequential(
            nn.Linear(size, size),
            nn.Dropout(plug["dropout"]),
            nn.GELU(),
            nn.Linear(size, config.num_labels),
        )
        own.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Logits of the classes, and the loss where there are labels."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        own: Any = self
        out = own.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        last = out.last_hidden_state.to(own.device)  # its blocks may lie on several cards
        found = self.pool(last, attention_mask)
        if self.plug is not None:
            found = self.plug(found[:, None])[:, 0]
        logits: Tensor = self.classifier(found)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=out.get("hidden_states"),
            attentions=out.get("attentions"),
        )

    def pool(
        self, hidden: Float[Tensor, "rows tokens features"], mask: Tensor | None
    ) -> Float[Tensor, "rows features"]:
        """One vector per text."""
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        return pooled(hidden, mask, self.config.plug["pooling"])


class _Writer(_Plugged):
    """An encoder-decoder whose decoder reads what the plug makes of the encoder's output."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.attach(_new_plug(config))

    def attach(self, plug: Plug) -> None:
        """Put the plug behind the encoder, wherever that is called from."""
        own: Any = self
        self.plug = plug
        encoder = own.get_encoder()
        encoder.register_forward_hook(functools.partial(_through, plug), with_kwargs=True)


def _through(plug: Plug, _: nn.Module, args: Any, kwargs: Mapping[str, Any], out: Any) -> Any:
    mask = kwargs.get("attention_mask")
    if isinstance(out, tuple):
        return (plug(out[0], mask), *out[1:])
    out.last_hidden_state = plug(out.last_hidden_state, mask)
    return out


def _new_plug(config: Any) -> Plug:
    plug = config.plug
    return Plug(
        config.hidden_size,
        donor_config(plug),
        plug["layers"],
        frozen=plug["frozen"],
        many=bool(config.is_encoder_decoder),
    )


def donor_config(plug: Mapping[str, Any]) -> PretrainedConfig:
    """The config of the model that the layers are from."""
    from transformers import AutoConfig

    given = dict(plug["config"])
    config: PretrainedConfig = AutoConfig.for_model(given.pop("model_type"), **given)
    return config


# -- classes ---------------------------------------------------------------------------------------


@functools.cache
def classifier_class(encoder: Any) -> type[Any]:
    """The class of a family's classifier with a plug.

    Args:
        encoder: the family's model without a head, such as `BertModel`.
    """
    from transformers import PreTrainedModel as Any_

    parents = [kind for kind in encoder.__mro__[1:] if issubclass(kind, Any_)]
    parent = next(kind for kind in parents if hasattr(kind, "base_model_prefix"))
    name = encoder.__name__.removesuffix("Model") + "PluggedForSequenceClassification"
    return type(name, (_Classifier, parent), {"encoder_class": encoder})


@functools.cache
def writer_class(model: Any) -> type[Any]:
    """The class of an encoder-decoder with a plug, such as of `T5ForConditionalGeneration`."""
    return type(f"Plugged{model.__name__}", (_Writer, model), {"plain_class": model})


def _base(kind: type[nn.Module], config: Any) -> nn.Module:
    """A family's model without a head, and without the pooler where the small model had none."""
    if "add_pooling_layer" in inspect.signature(kind).parameters:
        return kind(config, add_pooling_layer=config.plug["pooler"])
    return kind(config)


# -- from a small model ----------------------------------------------------------------------------


def plugged(
    model: PreTrainedModel,
    donated: Donated | None,
    *,
    pooling: Pooling = "first",
    dropout: float = 0.2,
    frozen: bool = True,
    random: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """The small model with these layers in it; it shares the small model's tensors.

    Args:
        donated: None for the classifier alone, to compare with.
        seed: of the projections and the head, which are new.

    Raises PlanError for a small model that this cannot be done to.
    """
    writes = bool(getattr(model.config, "is_encoder_decoder", False))
    model = fork(model)
    config = deepcopy(model.config)
    config.plug = {
        "base": (type(model) if writes else type(model.base_model)).__name__,
        "donor": None if donated is None else donated.name,
        "licence": None if donated is None else donated.licence,
        "layers": [] if donated is None else list(donated.numbers),
        "config": None if donated is None else json.loads(_plain(donated.config)),
        "pooling": pooling,
        "pooler": getattr(model.base_model, "pooler", None) is not None,
        "dropout": dropout,
        "frozen": frozen,
        "random": random,
    }
    made = _writer(model, config) if writes else _classifier(model, config)
    _fill(made, donated, model, seed)
    return made.train(model.training)


def _plain(config: PretrainedConfig) -> str:
    text: str = config.to_json_string(use_diff=False)
    return text


def _classifier(model: PreTrainedModel, config: PretrainedConfig) -> Any:
    check_classifier(model, config.plug["pooling"])
    encoder: Any = type(model.base_model)
    kind = classifier_class(encoder)
    with torch.device("meta"):
        made = kind(config)
    setattr(made, made.base_model_prefix, model.base_model)
    for linear in (made.classifier[0], made.classifier[3]):
        linear.to_empty(device="cpu")
    return made


def check_classifier(model: PreTrainedModel, pooling: str) -> None:
    """Raises PlanError for a small model that reads no text, or is pooled where it is blind."""
    if "input_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise PlanError(f"{type(model).__name__} reads no text: nothing to plug a layer into")
    if pooling == "first" and family(model).causal:
        raise PlanError(
            f"PlugIn.pooling on {type(model).__name__}, whose first token sees nothing else",
            got="first",
            allowed='"mean" or "last"',
        )


def _writer(model: PreTrainedModel, config: PretrainedConfig) -> Any:
    if config.plug["config"] is None:
        raise PlanError("PlugIn: an encoder-decoder without a plugged layer is what it was")
    plain: Any = type(model)
    kind = writer_class(plain)
    with torch.device("meta"):
        made = kind(config)
    vars(made).update({name: value for name, value in vars(model).items() if name not in _OWN})
    made._modules.update(model._modules)
    return made


def _fill(made: Any, donated: Donated | None, model: PreTrainedModel, seed: int) -> None:
    """New projections and head, drawn from the seed, and the donor's weights."""
    first = next(model.parameters())
    if donated is not None:
        made.plug = _new_plug(made.config)  # on the CPU, buffers and all
        for layer, tensors in zip(made.plug.layers, donated.tensors, strict=True):
            layer.load_state_dict(dict(tensors))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        heads = [made.classifier[0], made.classifier[3]] if hasattr(made, "classifier") else []
        ends = [made.plug.into, made.plug.out] if made.plug is not None else []
        for linear in (*heads, *ends):
            linear.reset_parameters()
    if heads:
        made.classifier.to(first.device, first.dtype)
    if made.plug is not None:
        made.plug.in_dtype(first.device, first.dtype)
        made.plug.settle()
        if isinstance(made, _Writer):
            made.attach(made.plug)


# -- from a folder ---------------------------------------------------------------------------------


def load_plugged(folder: Path) -> Any:
    """What `save_to` wrote, in evaluation mode, on the CPU, in the dtype it was saved in.

    Raises ModelError where the installed transformers has no such family.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    base = getattr(transformers, config.plug["base"], None)
    if base is None:
        do = f"transformers {transformers.__version__} has no such class"
        raise ModelError(f"{folder}: config.json, plug.base", got=config.plug["base"], do=do)
    kind = (writer_class if config.is_encoder_decoder else classifier_class)(base)
    tensors = load_file(folder / "model.safetensors")
    made = kind(config)
    if (plug := made.plug) is not None:
        made.plug = None
    dtype = config.dtype or torch.float32
    made.to(dtype)
    if plug is not None:
        made.plug = plug
        plug.in_dtype(torch.device("cpu"), dtype)
    missing, unknown = made.load_state_dict(tensors, strict=False)
    tied = set(getattr(made, "all_tied_weights_keys", ()))
    if unknown or set(missing) - tied:
        raise ModelError(f"{folder}: its weights are not of its config", got=sorted(unknown)[:3])
    made.tie_weights()
    if made.plug is not None:
        made.plug.settle()
    return made.eval()
