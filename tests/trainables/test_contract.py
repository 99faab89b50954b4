"""What every method owes: calibration leaves the model alone, the same twice is the same, what is
claimed to be removed is removed, saved and reloaded is the same, bad fields say so."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.methods import METHODS
from tests.support.families import batches, build
from trainables.bench.models.structure import blocks, linears, rows
from trainables.core.errors import FieldError
from trainables.core.fork import fork, same_tensors
from trainables.stage import Method

CASES = [
    pytest.param(method, name, id=f"{type(method).__name__}-{index}-{name}")
    for index, (method, names, _) in enumerate(METHODS)
    for name in names
]


@torch.no_grad()
def logits(model: PreTrainedModel, name: str) -> Tensor:
    found: Tensor = model(**batches(name)[0]).logits
    return found


def hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def done(method: Method, model: PreTrainedModel, name: str) -> PreTrainedModel:
    own = fork(model)
    method.apply(own, type(method).calibrate(model, batches(name)))
    return own


@pytest.mark.parametrize(("method", "name"), CASES)
def test_calibration_leaves_weights_and_hooks_untouched(method: Method, name: str) -> None:
    model, same = build(name), build(name)
    type(method).calibrate(model, batches(name))
    assert same_tensors(model, same)
    assert hooks(model) == 0


@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_fork_never_changes_its_base(method: Method, name: str) -> None:
    model, same = build(name), build(name)
    done(method, model, name)
    assert same_tensors(model, same)
    assert torch.equal(logits(model, name), logits(same, name))


@pytest.mark.parametrize(("method", "name"), CASES)
def test_twice_the_same_and_not_the_base(method: Method, name: str) -> None:
    model = build(name)
    once, again = done(method, model, name), done(method, model, name)
    assert torch.equal(logits(once, name), logits(again, name))
    assert not torch.equal(logits(once, name), logits(model, name))


@pytest.mark.parametrize(("method", "name"), CASES)
def test_counts_match_the_model(method: Method, name: str) -> None:
    model = build(name)
    own = fork(model)
    counts = method.apply(own, type(method).calibrate(model, batches(name))).counts
    if "removed" in counts:
        assert len(blocks(own)) == len(blocks(model)) - counts["removed"] == counts["blocks"]
    if "zeros" in counts:
        found = sum(int((rows(layer) == 0).sum()) for layer in linears(own).values())
        assert found == counts["zeros"] > 0


@pytest.mark.parametrize(("method", "name"), CASES)
def test_saved_and_reloaded_is_the_same(method: Method, name: str, tmp_path: Path) -> None:
    own = done(method, build(name), name)
    own.save_pretrained(tmp_path)
    reloaded = type(own).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(own, name), logits(reloaded, name))


@pytest.mark.parametrize(("method", "_names", "wrong"), METHODS)
def test_a_bad_field_says_field_value_and_range(
    method: Method, _names: list[str], wrong: dict[str, object]
) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(FieldError) as error:
        dataclasses.replace(method, **wrong)  # type: ignore[type-var]
    for part in (type(method).__name__, name, repr(value), "allowed"):
        assert part in str(error.value)
