"""Wanda against an independent, slow reference written from the paper's algorithm."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.families import batches, build
from trainables.bench.models.structure import blocks, linears, rows
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.types import Batch
from trainables.wanda import Wanda, WandaSequential, prune_mask


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
