"""A decoder layer of a language model between two projections, on one token or on many.

On one token attention has nothing to choose from: it gives back the token's own value. So
layer(x) = h + MLP(norm(h)) with h = x + W_o W_v norm(x), without queries, keys and positions. That
this is what the layer says is tried on numbers when it is put in; where it is not (a layer whose
attention does something else besides), the layer runs as it is.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainables.core.types import PretrainedConfig
from trainables.plugin.donor import layers_of, rotary_of

Hidden = Float[Tensor, "rows tokens features"]
_TRIED = 3  # tokens on which the short way is compared with the layer itself


class Layers(nn.ModuleList):
    """The donated layers. `never_learns` keeps training from changing them."""

    never_learns: bool = True


class Plug(nn.Module):
    """Into the donor's width, through its layers, and back.

    Args:
        size: the small model's width.
        config: the donor's.
        numbers: where in the donor the layers come from.
        frozen: whether the layers stay as they are.
        many: for texts of many tokens; else for one.
    """

    from_elsewhere = True  # its layers are no blocks of the model

    def __init__(
        self,
        size: int,
        config: PretrainedConfig,
        numbers: Sequence[int],
        *,
        frozen: bool = True,
        many: bool = False,
    ) -> None:
        super().__init__()
        self.into = nn.Linear(size, config.hidden_size, bias=False)
        self.layers = Layers(layers_of(config, numbers))
        self.layers.never_learns = frozen
        self.layers.requires_grad_(not frozen)
        self.out = nn.Linear(config.hidden_size, size, bias=False)
        self.rotary = rotary_of(config)
        self.kinds = [_kind(config, number) for number in numbers]
        self.many, self.short = many, False

    def in_dtype(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move there; what tells about positions stays in float32, as in the donor."""
        rotary, self.rotary = self.rotary, None
        self.to(device, dtype)
        self.rotary = None if rotary is None else rotary.to(device)

    def settle(self) -> None:
        """Find out whether the short way says what the layers say; called when they are there."""
        if self.many or any(value_of(one) is None for one in self.layers):
            return
        first = next(self.layers.parameters())
        learning = self.layers.training
        self.layers.eval()
        tried = torch.randn(_TRIED, 1, self.into.out_features, generator=_generator())
        with torch.no_grad():
            short = long = tried.to(first.device, first.dtype)
            for number, layer in enumerate(self.layers):
                short, long = one_token(layer, short), self.whole(number, long, None)
        self.short = bool(torch.equal(short, long))
        self.layers.train(learning)

    def forward(self, hidden: Hidden, mask: Int[Tensor, "rows tokens"] | None = None) -> Hidden:
        """Each token sees every other one that the mask does not hide, whatever its place."""
        found = self.into(hidden)
        for number, layer in enumerate(self.layers):
            one = self.short and hidden.shape[1] == 1
            found = one_token(layer, found) if one else self.whole(number, found, mask)
        back: Hidden = self.out(found)
        return back

    def whole(self, number: int, hidden: Hidden, mask: Int[Tensor, "rows tokens"] | None) -> Hidden:
        """A layer as the donor runs it, but that tokens see those behind them too."""
        layer, given = self.layers[number], dict[str, Any]()
        places = torch.arange(hidden.shape[1], device=hidden.device)[None]
        if self.rotary is not None:
            kind = [self.kinds[number]] if _asks_kind(self.rotary) else []
            given["position_embeddings"] = self.rotary(hidden, places, *kind)
            given["position_ids"] = places
        shown = torch.ones_like(hidden[..., 0]) if mask is None else mask.to(hidden.dtype)
        hide = (1 - shown)[:, None, None].expand(-1, 1, hidden.shape[1], -1)
        least = torch.finfo(hidden.dtype).min
        return _first(layer(hidden, attention_mask=hide * least, **given))


def one_token(layer: nn.Module, hidden: Hidden) -> Hidden:
    """What a layer makes of texts of one token each, without attention's queries and keys.

    The layer's own forward puts norms, residuals and MLP together; only its attention is stood in
    for by the value's way through it.
    """
    name = attention_name(layer)
    inner, given = getattr(layer, name), value_of(layer)
    assert given is not None
    layer._modules[name] = _OwnValue(given)
    try:
        return _first(layer(hidden, **_nothing(layer)))
    finally:
        layer._modules[name] = inner


class _OwnValue(nn.Module):
    """Stands in for an attention that has only one token to look at."""

    def __init__(self, given: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.given = given

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return self.given(hidden_states), None


def attention_name(layer: nn.Module) -> str:
    """Under which name a decoder layer has its attention."""
    return next(name for name in ("self_attn", "attn", "attention") if hasattr(layer, name))


def value_of(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The way of a single token's value through a layer's attention; None where it is not known."""
    attention: Any = getattr(layer, attention_name(layer))
    out = getattr(attention, "o_proj", None) or getattr(attention, "out_proj", None)
    if hasattr(attention, "v_proj") and out is not None:
        return lambda hidden: out(_to_heads(attention, attention.v_proj(hidden)))
    if hasattr(attention, "qkv_proj") and out is not None:  # phi3
        size = attention.config.num_key_value_heads * attention.head_dim
        return lambda hidden: out(_to_heads(attention, attention.qkv_proj(hidden)[..., -size:]))
    if hasattr(attention, "c_attn") and hasattr(attention, "c_proj"):  # gpt2
        drop = getattr(attention, "resid_dropout", nn.Identity())
        return lambda hidden: drop(attention.c_proj(attention.c_attn(hidden).chunk(3, -1)[2]))
    if hasattr(attention, "query_key_value") and hasattr(attention, "dense"):  # gpt_neox
        return lambda hidden: attention.dense(_own_third(attention, hidden))
    return None


def _to_heads(attention: Any, value: Tensor) -> Tensor:
    """Values of shared heads, once for each head that reads them."""
    groups = getattr(attention, "num_key_value_groups", 1)
    if groups == 1:
        return value
    apart = value.unflatten(-1, (-1, attention.head_dim))
    found: Tensor = apart.repeat_interleave(groups, dim=-2).flatten(-2)
    return found


def _own_third(attention: Any, hidden: Tensor) -> Tensor:
    apart = attention.query_key_value(hidden).unflatten(-1, (-1, 3, attention.head_size))
    found: Tensor = apart[..., 2, :].flatten(-2)
    return found


def _nothing(layer: nn.Module) -> dict[str, Any]:
    """What a layer insists on being given, for an attention that looks at none of it."""
    asked = inspect.signature(layer.forward).parameters.values()
    bare = [p.name for p in asked if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return dict.fromkeys(bare[1:])


def _first(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _kind(config: PretrainedConfig, number: int) -> str:
    """Which kind of attention the donor has at a place, where it has several."""
    kinds = getattr(config, "layer_types", None)
    return str(kinds[number]) if kinds else ""


def _asks_kind(rotary: nn.Module) -> bool:
    return "layer_type" in inspect.signature(rotary.forward).parameters


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
