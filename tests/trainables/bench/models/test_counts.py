"""Every parameter count of the source's tables, from the real architectures on the meta device.

Two rows of the source are not what it says: ResNet-152 K2 pass 2 T99 keeps 27 blocks (not 26), and
its T5 of 109,630,464 parameters has 8 + 3 blocks (not 7 + 3). ResNet-50's pass 2 "Part" rows are
swapped there.
"""

from itertools import accumulate

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from trainables.bench.models.structure import blocks, fixed_blocks, stacks
from trainables.bench.models.surgery import remove_blocks

RESNET_152, RESNET_50 = (3, 8, 36, 3), (3, 4, 6, 3)


def resnet(depths: tuple[int, ...]) -> PreTrainedModel:
    config = ResNetConfig(
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        depths=list(depths),
        layer_type="bottleneck",
        num_labels=1000,
    )
    with torch.device("meta"):
        return ResNetForImageClassification(config)


def bert(labels: int) -> PreTrainedModel:
    with torch.device("meta"):
        return BertForSequenceClassification(BertConfig(num_labels=labels))


def t5_base() -> PreTrainedModel:
    config = T5Config(
        d_model=768, d_ff=3072, num_heads=12, num_layers=12, num_decoder_layers=12, d_kv=64
    )
    with torch.device("meta"):
        return T5ForConditionalGeneration(config)


def parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def keep(model: PreTrainedModel, kept: tuple[int, ...]) -> PreTrainedModel:
    """The model with so many blocks per stack left: the last ones of each go."""
    depths = [len(stack.blocks) for stack in stacks(model)]
    firsts = [0, *accumulate(depths)]
    gone = [
        first + number
        for first, depth, left in zip(firsts, depths, kept, strict=False)
        for number in range(left, depth)
    ]
    remove_blocks(model, gone)
    return model


@pytest.mark.parametrize(
    ("before", "kept", "count"),
    [
        (RESNET_152, (3, 8, 36, 3), 60_192_808),
        (RESNET_152, (3, 6, 15, 2), 31_709_224),
        (RESNET_152, (3, 6, 11, 2), 27_240_488),
        (RESNET_152, (3, 6, 22, 2), 39_529_512),
        (RESNET_152, (3, 6, 21, 2), 38_412_328),
        (RESNET_152, (3, 5, 10, 2), 25_843_240),
        (RESNET_152, (3, 4, 5, 2), 19_977_256),
        (RESNET_152, (3, 5, 7, 2), 22_491_688),
        (RESNET_152, (3, 4, 8, 2), 23_328_808),
        (RESNET_152, (3, 5, 17, 2), 33_663_528),
        (RESNET_152, (3, 4, 14, 2), 30_031_912),
        (RESNET_152, (3, 5, 12, 2), 28_077_608),
        (RESNET_50, (3, 4, 6, 3), 25_557_032),
        (RESNET_50, (3, 3, 5, 3), 24_159_784),
        (RESNET_50, (2, 2, 3, 3), 21_574_952),
        (RESNET_50, (3, 2, 5, 3), 23_879_720),
        (RESNET_50, (1, 1, 3, 3), 21_224_488),
        (RESNET_50, (3, 2, 3, 3), 21_645_352),
        (RESNET_50, (2, 1, 3, 3), 21_294_888),
    ],
)
def test_resnet(before: tuple[int, ...], kept: tuple[int, ...], count: int) -> None:
    model = keep(resnet(before), kept)
    assert parameters(model) == count
    assert tuple(model.config.depths) == kept
    assert len(blocks(model)) == sum(kept)
    assert parameters(resnet(tuple(model.config.depths))) == count


@pytest.mark.parametrize(
    ("stage", "count"), [(0, 70_400), (1, 280_064), (2, 1_117_184), (3, 4_462_592)]
)
def test_an_identity_bottleneck(stage: int, count: int) -> None:
    block = stacks(resnet(RESNET_50))[stage].blocks[1]
    assert sum(parameter.numel() for parameter in block.parameters()) == count


def test_stage_openings_must_stay() -> None:
    assert fixed_blocks(resnet(RESNET_152)) == {0, 3, 11, 47}


@pytest.mark.parametrize(
    ("labels", "kept", "count"),
    [
        (6, 12, 109_486_854),
        (6, 10, 95_311_110),
        (6, 8, 81_135_366),
        (6, 6, 66_959_622),
        (10, 12, 109_489_930),
        (10, 9, 88_226_314),
    ],
)
def test_bert_base(labels: int, kept: int, count: int) -> None:
    model = keep(bert(labels), (kept,))
    assert parameters(model) == count
    assert model.config.num_hidden_layers == kept


@pytest.mark.parametrize(
    ("kept", "count"),
    [
        ((12, 12), 222_903_552),
        ((9, 5), 135_588_864),
        ((8, 3), 109_630_464),
        ((7, 3), 102_551_040),
    ],
)
def test_t5_base(kept: tuple[int, int], count: int) -> None:
    model = keep(t5_base(), kept)
    assert parameters(model) == count
    assert (model.config.num_layers, model.config.num_decoder_layers) == kept
    assert fixed_blocks(model) == {0, kept[0]}
