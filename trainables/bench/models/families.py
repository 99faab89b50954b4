"""Model families as rows of data: where each keeps its blocks and their parts.

A family is found by its structure (see structure.py), so one row serves every model built alike.
Paths of stacks start at `model.base_model`, `*` standing for every child of a list; the other
paths start at a block, negative numbers counting from a list's end.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Where a family keeps its parts; paths inside a block start at the block."""

    name: str
    stacks: tuple[tuple[str, str], ...]  # (path to the list of blocks, config field with its depth)
    attention: str = ""
    attention_out: str = ""  # the linear that writes attention to the residual stream
    ffn: str = ""
    expand: tuple[str, ...] = ()  # the linears into the FFN's neurons
    contract: str = ""  # the linear out of them
    width: tuple[str, ...] = ()  # config fields with the number of neurons: one, or one per stack
    pre_norm: bool = False  # the residual stream is untouched by norms: units can be skipped
    causal: bool = False


_GATED = ("mlp.gate_proj", "mlp.up_proj")
_BERT = {
    "attention": "attention",
    "attention_out": "attention.output.dense",
    "ffn": "output",
    "expand": ("intermediate.dense",),
    "contract": "output.dense",
    "width": ("intermediate_size",),
}

_BART = {
    "attention": "self_attn",
    "attention_out": "self_attn.out_proj",
    "expand": ("fc1",),
    "contract": "fc2",
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "llama",  # also Qwen2, Qwen3, Mistral, Gemma, Gemma 3 (text), SmolLM, ...
        (("layers", "num_hidden_layers"),),
        attention="self_attn",
        attention_out="self_attn.o_proj",
        ffn="mlp",
        expand=_GATED,
        contract="mlp.down_proj",
        width=("intermediate_size",),
        pre_norm=True,
        causal=True,
    ),
    Family(
        "phi3",
        (("layers", "num_hidden_layers"),),
        attention="self_attn",
        attention_out="self_attn.o_proj",
        ffn="mlp",
        expand=("mlp.gate_up_proj",),
        contract="mlp.down_proj",
        width=("intermediate_size",),
        pre_norm=True,
        causal=True,
    ),
    Family(
        "gpt2",
        (("h", "n_layer"),),
        attention="attn",
        attention_out="attn.c_proj",
        ffn="mlp",
        expand=("mlp.c_fc",),
        contract="mlp.c_proj",
        width=("n_inner",),
        pre_norm=True,
        causal=True,
    ),
    Family(  # also mBART, Marian, Pegasus, M2M100, Blenderbot, ...
        "bart",
        (("encoder.layers", "encoder_layers"), ("decoder.layers", "decoder_layers")),
        **_BART,  # type: ignore[arg-type]
        width=("encoder_ffn_dim", "decoder_ffn_dim"),
    ),
    Family(  # the same as a language model of its own
        "bart-decoder",
        (("decoder.layers", "decoder_layers"),),
        **_BART,  # type: ignore[arg-type]
        width=("decoder_ffn_dim",),
        causal=True,
    ),
    Family(
        "opt",
        (("decoder.layers", "num_hidden_layers"),),
        **_BART,  # type: ignore[arg-type]
        width=("ffn_dim",),
        causal=True,
    ),
    Family(
        "gpt_neox",
        (("layers", "num_hidden_layers"),),
        attention="attention",
        attention_out="attention.dense",
        ffn="mlp",
        expand=("mlp.dense_h_to_4h",),
        contract="mlp.dense_4h_to_h",
        width=("intermediate_size",),
        pre_norm=True,
        causal=True,
    ),
    Family("bert", (("encoder.layer", "num_hidden_layers"),), **_BERT),  # type: ignore[arg-type]
    Family(
        "distilbert",
        (("transformer.layer", "n_layers"),),
        attention="attention",
        attention_out="attention.out_lin",
        ffn="ffn",
        expand=("ffn.lin1",),
        contract="ffn.lin2",
        width=("hidden_dim",),
    ),
    Family(
        "vit",
        (("layers", "num_hidden_layers"),),
        attention="attention",
        attention_out="attention.o_proj",
        ffn="mlp",
        expand=("mlp.fc1",),
        contract="mlp.fc2",
        width=("intermediate_size",),
        pre_norm=True,
    ),
    Family(
        "t5",
        (("encoder.block", "num_layers"), ("decoder.block", "num_decoder_layers")),
        attention="layer.0.SelfAttention",
        attention_out="layer.0.SelfAttention.o",
        ffn="layer.-1.DenseReluDense",
        expand=("layer.-1.DenseReluDense.wi",),
        contract="layer.-1.DenseReluDense.wo",
        width=("d_ff",),
        pre_norm=True,
    ),
    Family(
        "t5-gated",
        (("encoder.block", "num_layers"), ("decoder.block", "num_decoder_layers")),
        attention="layer.0.SelfAttention",
        attention_out="layer.0.SelfAttention.o",
        ffn="layer.-1.DenseReluDense",
        expand=("layer.-1.DenseReluDense.wi_0", "layer.-1.DenseReluDense.wi_1"),
        contract="layer.-1.DenseReluDense.wo",
        width=("d_ff",),
        pre_norm=True,
    ),
    Family("resnet", (("encoder.stages.*.layers", "depths"),)),
)
