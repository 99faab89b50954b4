"""Wanda against an independent, slow reference written from the paper's algorithm."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, RegNetConfig, RegNetForImageClassification

from tests.support.families import batch_of, batches, build, kind
from trainables.bench.models.structure import blocks, linears, rows
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.types import Batch
from trainables.wanda import Wanda, WandaSequential, _features, prune_mask


def reference_mask(weight: Tensor, inputs: list[Tensor], sparsity: float) -> Tensor:
    """One row at a time; the norm as a running mean over samples, each (tokens, features)."""
    mean = torch.zeros(weight.shape[1])
    for count, sample in enumerate(inputs):
        mean *= count / (count + 1)
        mean += torch.norm(sample.float().t(), p=2, dim=1) ** 2 / (count + 1)
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    for row in range(weight.shape[0]):
        score = torch.abs(weight[row]) * torch.sqrt(mean)
        for column in torch.sort(score, stable=True)[1][: int(weight.shape[1] * sparsity)]:
            mask[row, column] = True
    return mask


def unpadded(name: str) -> list[Batch]:
    samples = []
    for batch in batches(name):
        for row in range(len(batch["input_ids"])):
            keep = batch["attention_mask"][row].bool()
            samples.append({k: v[row : row + 1, keep] for k, v in batch.items()})
    return samples


@torch.no_grad()
def inputs_of(
    model: PreTrainedModel, layers: list[nn.Module], data: list[Batch]
) -> list[list[Tensor]]:
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_pre_hook(lambda _, args, i=i: seen[i].append(args[0].flatten(0, -2)))
        for i, layer in enumerate(layers)
    ]
    for sample in data:
        model(**sample)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "bert"])
def test_dense_masks_equal_the_reference(name: str, sparsity: float) -> None:
    model, data = build(name), unpadded(name)
    own = fork(model)
    Wanda(sparsity).apply(own, Wanda.calibrate(model, batches(name)))
    names = list(linears(model))
    seen = inputs_of(model, [linears(model)[n] for n in names], data)
    for layer, inputs in zip(names, seen, strict=True):
        before, after = rows(linears(model)[layer]), rows(linears(own)[layer])
        expected = before.masked_fill(reference_mask(before, inputs, sparsity), 0)
        assert torch.equal(after, expected), layer


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "bert"])
def test_sequential_masks_equal_the_reference(name: str) -> None:
    """Block by block: each block's inputs come from the blocks before it, already pruned."""
    model, data = build(name), unpadded(name)
    own = fork(model)
    for _ in WandaSequential(0.5)._sequentially(own, batches(name)):
        pass
    slow = build(name)
    for index in range(len(blocks(slow))):
        layers = [
            layer for layer in blocks(slow)[index].modules() if layer in linears(slow).values()
        ]
        for layer, inputs in zip(layers, inputs_of(slow, layers, data), strict=True):
            weight = rows(layer)  # type: ignore[arg-type]
            weight.data.masked_fill_(reference_mask(weight, inputs, 0.5), 0)
    for (layer, mine), theirs in zip(linears(own).items(), linears(slow).values(), strict=True):
        assert torch.equal(rows(mine), rows(theirs)), layer


def test_two_of_four_keeps_the_two_largest() -> None:
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0, 5.0, 0.0, -6.0, 1.0]])
    drop = prune_mask(weight, torch.ones(8), 0.0, (2, 4))
    assert drop.tolist() == [[True, False, True, False, False, True, False, True]]


def test_norms_weigh_in() -> None:
    weight = torch.tensor([[1.0, 1.1]])
    assert prune_mask(weight, torch.tensor([4.0, 1.0]), 0.5).tolist() == [[False, True]]


def test_the_share_is_rounded_down_and_ties_go_in_order() -> None:
    drop = prune_mask(torch.ones(1, 7), torch.ones(7), 0.5)
    assert drop.tolist() == [[True] * 3 + [False] * 4]


def test_a_pattern_that_does_not_divide_the_row_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="2:4"):
        prune_mask(torch.ones(1, 7), torch.ones(7), 0.0, (2, 4))


def test_no_sparsity_is_no_change() -> None:
    model = build("llama")
    assert Wanda(0.0).apply(model, Wanda.calibrate(model, batches("llama"))).effects == ()


def test_a_silent_linear_is_an_error() -> None:
    with pytest.raises(PlanError, match="never ran"):
        Wanda.calibrate(build("llama"), [])


# -- convolutions --------------------------------------------------------------------------------


def regnet() -> PreTrainedModel:
    config = RegNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], groups_width=4)
    return RegNetForImageClassification(config).eval()


@pytest.mark.parametrize("made", [lambda: build("convnext"), regnet])
def test_a_convolution_with_groups_is_pruned_as_that_many_convolutions(made: Any) -> None:
    model, data = made(), batches("resnet")
    convolutions = [m for m in linears(model).values() if getattr(m, "groups", 1) > 1]
    stats, own = Wanda.calibrate(model, data), fork(model)
    Wanda(0.5).apply(own, stats)
    assert convolutions
    samples = [{k: v[i : i + 1] for k, v in batch.items()} for batch in data for i in range(4)]
    for layer, seen in zip(convolutions, images_into(model, convolutions, samples), strict=True):
        name = next(n for n, m in model.named_modules() if m is layer)
        pruned = own.get_submodule(name).weight
        each = zip(layer.weight.chunk(layer.groups), pruned.chunk(layer.groups), strict=True)
        for number, (weight, found) in enumerate(each):
            width = layer.in_channels // layer.groups
            inputs = [patches(layer, one[:, number * width :][:, :width]) for one in seen]
            drop = reference_mask(weight.flatten(1), inputs, 0.5).view(weight.shape)
            assert torch.equal(found, weight.masked_fill(drop, 0)), name


@torch.no_grad()
def images_into(model: PreTrainedModel, layers: list[Any], data: list[Batch]) -> list[list[Tensor]]:
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_pre_hook(lambda _, args, i=i: seen[i].append(args[0]))
        for i, layer in enumerate(layers)
    ]
    for sample in data:
        model(**sample)
    for handle in handles:
        handle.remove()
    return seen


def patches(layer: nn.Conv2d, image: Tensor) -> Tensor:
    """(positions, inputs) of one group's channels."""
    size = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return nn.functional.unfold(image, *size)[0].T


def test_padding_by_name_is_as_padding_by_number() -> None:
    image = torch.randn(2, 3, 8, 8)
    by_name = nn.Conv2d(3, 4, 3, padding="same")
    assert torch.equal(_features(by_name, image), _features(nn.Conv2d(3, 4, 3, padding=1), image))
    round_about = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
    seen = _features(round_about, image) @ rows(round_about).T
    wanted = round_about(image) - round_about.bias.view(-1, 1, 1)
    assert torch.allclose(seen, wanted.flatten(2).transpose(1, 2).flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["resnet", "convnext", "vit", "bert"])
def test_half_precision_models_are_pruned_too(name: str, dtype: torch.dtype) -> None:
    model = build(name).to(dtype)
    own = fork(model)
    found = Wanda(0.5).apply(own, Wanda.calibrate(model, batches(name)))
    assert found.counts["zeros"] > 0
    assert all(layer.weight.dtype == dtype for layer in linears(own).values())


@pytest.mark.parametrize("name", ["bart_classifier", "bart"])
def test_an_encoder_decoder_is_calibrated_whatever_its_labels_are(name: str) -> None:
    model = kind(name)
    norms = Wanda.calibrate(model, [batch_of(model)])
    assert norms.keys() == linears(model).keys()
