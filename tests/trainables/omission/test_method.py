"""Skipping blocks: equal to a model without them, KV cache included."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.families import DECODERS, batches, build
from trainables.bench.bench import Bench
from trainables.bench.models.structure import blocks
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.omission.importance import BlockInfluence
from trainables.omission.method import Omission
from trainables.stage import Removed, drain


def rebuilt_without(model: PreTrainedModel, skip: set[int]) -> PreTrainedModel:
    """A fresh model of the smaller depth, filled with the kept blocks' weights."""
    kept = [n for n in range(len(blocks(model))) if n not in skip]
    config = type(model.config).from_dict(model.config.to_dict())
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [model.config.layer_types[n] for n in kept]
    fresh = AutoModelForCausalLM.from_config(config).eval()
    prefix = next(n for n, m in model.named_modules() if m is blocks(model)[0]).removesuffix("0")
    state = {}
    for key, value in model.state_dict().items():
        head, found, tail = key.partition(prefix)
        if not found:
            state[key] = value
            continue
        number, _, rest = tail.partition(".")
        if int(number) in kept:
            state[f"{head}{prefix}{kept.index(int(number))}.{rest}"] = value
    fresh.load_state_dict(state)
    return fresh


@pytest.mark.parametrize("skip", [(0,), (3,), (1, 2)])
@pytest.mark.parametrize("name", DECODERS)
def test_equals_a_model_rebuilt_without_them(name: str, skip: tuple[int, ...]) -> None:
    model = build(name)
    own = fork(model)
    Omission(skip=skip).apply(own, {})
    fresh = rebuilt_without(model, set(skip))
    batch = batches(name)[0]
    with torch.no_grad():
        assert torch.equal(own(**batch).logits, fresh(**batch).logits)
        assert not torch.equal(own(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_and_without_cache_agrees(name: str) -> None:
    model = build(name)
    own = fork(model)
    Omission(skip=(1,)).apply(own, {})
    prompt = {k: v[:1] for k, v in batches(name)[0].items()}
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    cached = own.generate(**prompt, **settings, use_cache=True)
    plain = own.generate(**prompt, **settings, use_cache=False)
    fresh = rebuilt_without(model, {1}).generate(**prompt, **settings)
    assert torch.equal(cached, plain)
    assert torch.equal(cached, fresh)


def test_a_unit_is_skipped_exactly() -> None:
    """Without its attention a block adds only its FFN; without both it is the identity."""
    model = build("llama")
    own, without = fork(model), fork(model)
    Omission(attention=(2,), ffn=(2,)).apply(own, {})
    Omission(skip=(2,)).apply(without, {})
    batch = batches("llama")[0]
    with torch.no_grad():
        assert torch.equal(own(**batch).logits, without(**batch).logits)


def test_influence_is_zero_for_a_block_that_does_nothing() -> None:
    model = build("llama")
    Omission(attention=(2,), ffn=(2,)).apply(model, {})
    influence = BlockInfluence.calibrate(model, batches("llama"))["influence"]
    assert influence.shape == (4,)
    assert influence[2].abs() < 1e-6
    assert (influence[[0, 1, 3]] > 1e-3).all()


def test_the_order_of_a_set_does_not_matter() -> None:
    one = Omission(skip=(2, 1)).apply(build("llama"), {})
    other = Omission(skip=(1, 2)).apply(build("llama"), {})
    assert one.effects == other.effects == (Removed((1, 2)),)


def test_the_empty_set_changes_nothing() -> None:
    assert Omission().apply(build("llama"), {}).effects == ()


@pytest.mark.parametrize(
    ("name", "skip", "message"),
    [
        ("llama", (4,), "blocks 0 to 3"),
        ("llama", (0, 1, 2, 3), "at least one must stay"),
        ("resnet", (0,), "cannot be removed"),
        ("t5", (3,), "cannot be removed"),
    ],
)
def test_what_cannot_be_skipped_is_refused(name: str, skip: tuple[int, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Omission(skip=skip).apply(build(name), {})


@pytest.mark.parametrize("name", ["t5", "convnext"])
def test_nothing_is_calibrated_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Omission.measures()
    bench = SimpleNamespace(model=build(name), stats=partial(Bench.stats, SimpleNamespace()))
    summary = drain(Omission(skip=(1,)).on(bench))  # type: ignore[arg-type]
    assert summary.counts["removed"] == 1
