"""Tiny models whose blocks are alike where a test says so; a random one is alike everywhere."""

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from trainables.bench.models.structure import blocks, family, has, reach
from trainables.core.types import Batch

FAMILIES = ("bert", "roberta", "distilbert", "t5", "vit", "resnet")
_TEXT = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}


def tiny(name: str, depth: int = 6, labels: int = 3) -> PreTrainedModel:
    """A model of a family, in evaluation mode; T5 has `depth` blocks in each stack."""
    torch.manual_seed(0)
    return _BUILD[name](depth, labels).eval()


def _bert(depth: int, labels: int) -> PreTrainedModel:
    config = BertConfig(**_TEXT, num_hidden_layers=depth, num_labels=labels, pad_token_id=0)
    return BertForSequenceClassification(config)


def _roberta(depth: int, labels: int) -> PreTrainedModel:
    config = RobertaConfig(**_TEXT, num_hidden_layers=depth, num_labels=labels, pad_token_id=0)
    return RobertaForSequenceClassification(config)


def _distilbert(depth: int, labels: int) -> PreTrainedModel:
    config = DistilBertConfig(
        vocab_size=50, dim=32, n_heads=2, hidden_dim=48, n_layers=depth, num_labels=labels
    )
    return DistilBertForSequenceClassification(config)


def _t5(depth: int, labels: int) -> PreTrainedModel:
    config = T5Config(
        vocab_size=50,
        d_model=32,
        d_kv=16,
        num_heads=2,
        d_ff=48,
        num_layers=depth,
        num_decoder_layers=depth,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def _vit(depth: int, labels: int) -> PreTrainedModel:
    small = {key: value for key, value in _TEXT.items() if key != "vocab_size"}
    config = ViTConfig(
        **small, image_size=8, patch_size=4, num_hidden_layers=depth, num_labels=labels
    )
    return ViTForImageClassification(config)


def _resnet(depth: int, labels: int) -> PreTrainedModel:
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[depth - depth // 2, depth // 2],
        layer_type="bottleneck",
        num_labels=labels,
    )
    return ResNetForImageClassification(config)


_BUILD = {
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "t5": _t5,
    "vit": _vit,
    "resnet": _resnet,
}


def batch_for(model: PreTrainedModel, size: int = 8, seed: int = 0, pads: bool = True) -> Batch:
    """Random inputs with labels; half of the texts are padded."""
    draw = torch.Generator().manual_seed(seed)
    if model.config.model_type in ("vit", "resnet"):
        pixels = torch.randn(size, 3, 8, 8, generator=draw)
        return {"pixel_values": pixels, "labels": torch.randint(0, 3, (size,), generator=draw)}
    ids = torch.randint(5, 50, (size, 10), generator=draw)
    mask = torch.ones_like(ids)
    if pads:
        mask[::2, 6:] = 0
    found = {"input_ids": ids * mask, "attention_mask": mask}
    if model.config.model_type == "t5":
        labels = torch.randint(5, 50, (size, 7), generator=draw)
        labels[1::2, 4:] = -100
        return {**found, "labels": labels}
    return {**found, "labels": torch.randint(0, 3, (size,), generator=draw)}


def plant(model: PreTrainedModel, alike: set[int], loud: float = 40.0) -> PreTrainedModel:
    """Blocks in `alike` hardly change their input; the others change it a lot."""
    with torch.no_grad():
        for number, block in enumerate(blocks(model)):
            quiet = number in alike
            for layer in _writers(model, block):
                if quiet:
                    layer.weight.mul_(1e-4)
                else:
                    torch.nn.init.normal_(layer.weight, std=loud * layer.weight.shape[-1] ** -0.5)
    return model


def _writers(model: PreTrainedModel, block: nn.Module) -> list[nn.Module]:
    """The layers that write to the residual stream."""
    row = family(model)
    if row.name == "resnet":
        return [block.layer[-1].normalization]
    paths = [row.attention_out, row.contract, "layer.1.EncDecAttention.o"]
    return [reach(block, path) for path in paths if has(block, path)]
