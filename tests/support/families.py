"""Tiny models of every family the contract covers, built from configs: no network, milliseconds."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from trainables.core.types import Batch

VOCABULARY = 97
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = COMMON | {"num_key_value_heads": 2}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**GROUPED))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**GROUPED))


def gemma3_text() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention"] * 2
    config = Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4, layer_types=kinds)
    return Gemma3ForCausalLM(config)


def gpt2() -> PreTrainedModel:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_inner=48, **ids)
    )


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**COMMON))


def roberta() -> PreTrainedModel:
    return RobertaForSequenceClassification(RobertaConfig(**COMMON))


def distilbert() -> PreTrainedModel:
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=VOCABULARY, dim=32, hidden_dim=48, n_layers=4, n_heads=4)
    )


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=32,
            d_ff=48,
            d_kv=8,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
    )


def vit() -> PreTrainedModel:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
        )
    )


def resnet() -> PreTrainedModel:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 3])
    )


def bart() -> PreTrainedModel:
    sizes = {"encoder_layers": 3, "decoder_layers": 3, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    widths = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    config = BartConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, **sizes, **heads, **widths
    )
    return BartForConditionalGeneration(config)


def convnext() -> PreTrainedModel:
    config = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[2, 3])
    return ConvNextForImageClassification(config)


DECODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": llama,
    "qwen2": qwen2,
    "gemma3_text": gemma3_text,
    "gpt2": gpt2,
}
ENCODERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": bert,
    "roberta": roberta,
    "distilbert": distilbert,
}
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {"t5": t5, "vit": vit, "resnet": resnet}
# Two stacks with fields of their own; convolutions with groups.
MORE: dict[str, Callable[[], PreTrainedModel]] = {"bart": bart, "convnext": convnext}
FAMILIES = DECODERS | ENCODERS | OTHERS


def build(name: str) -> PreTrainedModel:
    """A tiny model, the same at every call, in evaluation mode."""
    torch.manual_seed(0)
    model = (FAMILIES | MORE)[name]().eval()
    for parameter in model.parameters():  # random initialisation barely moves the stream
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model


def batches(name: str, count: int = 2, size: int = 4) -> list[Batch]:
    """Batches the model takes; one row of each text batch is padded."""
    generator = torch.Generator().manual_seed(7)
    if name in ("vit", "resnet", "convnext"):
        side = 16 if name == "vit" else 32
        return [
            {"pixel_values": torch.randn(size, 3, side, side, generator=generator)}
            for _ in range(count)
        ]
    return [_text(name, size, generator) for _ in range(count)]


def _text(name: str, size: int, generator: torch.Generator) -> Batch:
    ids = torch.randint(3, VOCABULARY, (size, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, 6:] = 0
    batch = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    if name in ("t5", "bart"):
        batch["decoder_input_ids"] = torch.randint(3, VOCABULARY, (size, 4), generator=generator)
    return batch


# -- more kinds, for what families.py says of them ----------------------------------------------

_APART = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
_SMALL = {n: v for n, v in COMMON.items() if not n.endswith("token_id") and n != "vocab_size"}
_IMAGE = _SMALL | {"image_size": 16, "patch_size": 8}
_EXPERTS = GROUPED | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "head_dim": 8,
}
_DENSE_FIRST = COMMON | {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_SLIDING = GROUPED | {"head_dim": 8, "sliding_window": 4}
_NANO = _SLIDING | {"num_kv_shared_layers": 1, "vocab_size_per_layer_input": VOCABULARY}
_CAUSAL, _BOTH_WAYS = AutoModelForCausalLM, AutoModelForSequenceClassification
_WRITER, _IMAGES = AutoModelForSeq2SeqLM, AutoModelForImageClassification
KINDS: dict[str, tuple[str, Any, dict[str, Any]]] = {  # name: (type, head, config)
    "bart": ("bart", _WRITER, _APART),
    "bart_classifier": ("bart", _BOTH_WAYS, _APART),
    "bart_decoder": ("bart", _CAUSAL, _APART | {"encoder_layers": 4}),
    "beit": ("beit", _IMAGES, _IMAGE),
    "bert_causal": ("bert", _CAUSAL, COMMON),
    "convnext": ("convnext", _IMAGES, {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2}),
    "deberta_v2": ("deberta-v2", _BOTH_WAYS, COMMON),
    "deepseek_v3": ("deepseek_v3", _CAUSAL, _DENSE_FIRST),
    "diffllama": ("diffllama", _CAUSAL, COMMON),
    "esm": ("esm", _BOTH_WAYS, COMMON | {"mask_token_id": 3}),
    "gemma3n": ("gemma3n_text", _CAUSAL, _NANO),
    "led": ("led", _WRITER, _APART | {"attention_window": 4}),
    "longformer": ("longformer", _BOTH_WAYS, COMMON | {"attention_window": 4}),
    "marian": ("marian", _WRITER, _APART),
    "mbart": ("mbart", _WRITER, _APART),
    "mixtral": ("mixtral", _CAUSAL, GROUPED | {"num_local_experts": 4}),
    "opt": ("opt", _CAUSAL, {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "pegasus": ("pegasus", _WRITER, _APART),
    "phi3": ("phi3", _CAUSAL, COMMON),
    "qwen3_moe": ("qwen3_moe", _CAUSAL, _EXPERTS),
    "smollm3": ("smollm3", _CAUSAL, GROUPED),
    "umt5": ("umt5", _WRITER, _T5),
}


def kind(name: str) -> PreTrainedModel:
    """A tiny model of a kind, the same at every call, in evaluation mode."""
    model_type, head, config = KINDS[name]
    torch.manual_seed(0)
    model: PreTrainedModel = head.from_config(AutoConfig.for_model(model_type, **config)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.requires_grad:
            parameter.data.mul_(4)
    return model


def batch_of(model: PreTrainedModel) -> Batch:
    """Two examples such a model takes, with labels."""
    generator = torch.Generator().manual_seed(7)
    if model.main_input_name == "pixel_values":
        side = getattr(model.config, "image_size", 32)
        side = side if model.config.model_type in ("vit", "beit") else 32
        pixels = torch.randn(2, 3, side, side, generator=generator)
        return {"pixel_values": pixels, "labels": torch.tensor([0, 1])}
    ids = torch.randint(4, VOCABULARY, (2, 12), generator=generator)
    ids[:, -1] = 2  # an end, which a BART looks for
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if type(model).__name__.endswith("SequenceClassification"):
        return {**batch, "labels": torch.tensor([0, 1])}
    if model.config.is_encoder_decoder:
        return {**batch, "labels": torch.randint(4, VOCABULARY, (2, 5), generator=generator)}
    return {**batch, "labels": ids.clone()}
