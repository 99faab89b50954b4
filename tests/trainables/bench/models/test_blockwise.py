"""Walking a model block by block: equal to its forward, and to the model without some blocks."""

from collections.abc import Collection

import pytest
import torch
from torch import Tensor
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from tests.support.families import COMMON, FAMILIES, GROUPED, batches, build
from tests.support.same import same_tensors
from trainables.bench.models.blockwise import Walk
from trainables.bench.models.structure import blocks
from trainables.bench.models.surgery import remove_blocks
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.types import Batch

MORE = {
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**{k: v for k, v in COMMON.items() if k != "intermediate_size"}, ffn_dim=48)
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**GROUPED)),
}
SINGLE = [*(name for name in FAMILIES if name not in ("t5", "resnet")), *MORE]


def model_of(name: str) -> PreTrainedModel:
    if name not in MORE:
        return build(name)
    model = MORE[name]().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model


@torch.no_grad()
def walked(walk: Walk, batch: Batch, without: Collection[int]) -> Tensor:
    entry = walk.enter(batch)
    hidden = entry.hidden
    for index in range(len(walk.blocks)):
        if index not in without:
            hidden = walk.step(entry, index, hidden)
    logits: Tensor = walk.leave(batch, hidden).logits
    return logits


@torch.no_grad()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    found: Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize("without", [(), (0,), (3,), (1, 2), (0, 1, 3)])
@pytest.mark.parametrize("name", SINGLE)
def test_blocks_left_out_are_blocks_removed(name: str, without: tuple[int, ...]) -> None:
    model, batch = model_of(name), batches(name)[0]
    smaller = fork(model)
    remove_blocks(smaller, without)
    found = walked(Walk(model), batch, without)
    assert torch.equal(found, logits(smaller, batch))
    assert torch.equal(found, logits(model, batch)) is (not without)


@pytest.mark.parametrize("name", SINGLE)
def test_a_walk_leaves_the_model_as_it_was(name: str) -> None:
    model, batch = model_of(name), batches(name)[0]
    same, before, kept = fork(model), logits(model, batch), blocks(model)
    walked(Walk(model), batch, (1,))
    assert blocks(model) == kept
    assert same_tensors(model, same)
    assert torch.equal(logits(model, batch), before)


def test_one_walk_serves_batch_after_batch() -> None:
    model = build("llama")
    walk = Walk(model)
    for batch in batches("llama", count=3):
        assert torch.equal(walked(walk, batch, ()), logits(model, batch))


def test_entries_of_several_batches_may_be_open_at_once() -> None:
    model = build("llama")
    walk, (one, other) = Walk(model), batches("llama")
    with torch.no_grad():
        entries = [walk.enter(batch) for batch in (one, other)]
        states = [entry.hidden for entry in entries]
        for index in range(4):
            states = [walk.step(e, index, s) for e, s in zip(entries, states, strict=True)]
        found = [walk.leave(b, s).logits for b, s in zip((one, other), states, strict=True)]
    assert torch.equal(found[0], logits(model, one))
    assert torch.equal(found[1], logits(model, other))


@pytest.mark.parametrize("name", ["t5", "resnet"])
def test_several_stacks_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match="has 2 stacks of blocks"):
        Walk(build(name))
