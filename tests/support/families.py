"""Tiny models of every family the contract covers, built from configs: no network, milliseconds."""

from collections.abc import Callable

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
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
FAMILIES = DECODERS | ENCODERS | OTHERS


def build(name: str) -> PreTrainedModel:
    """A tiny model, the same at every call, in evaluation mode."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    for parameter in model.parameters():  # random initialisation barely moves the stream
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model


def batches(name: str, count: int = 2, size: int = 4) -> list[Batch]:
    """Batches the model takes; one row of each text batch is padded."""
    generator = torch.Generator().manual_seed(7)
    if name in ("vit", "resnet"):
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
    if name == "t5":
        batch["decoder_input_ids"] = torch.randint(3, VOCABULARY, (size, 4), generator=generator)
    return batch
