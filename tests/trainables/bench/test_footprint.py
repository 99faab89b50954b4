"""What a trial takes is counted from configurations, and agrees with what is measured."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from tests.support.families import FAMILIES
from trainables.bench.footprint import (
    Footprint,
    TrainingFootprint,
    batch_like,
    count,
    count_training,
    empty,
    footprint,
    items_that_fit,
)
from trainables.bench.metrics.cost import own_bytes, peak_memory
from trainables.bench.models.cards import layout
from trainables.bench.models.structure import blocks
from trainables.core.spec import BenchSpec, DataSpec, ModelSpec, TrainSpec

A6000 = 40e9  # bytes: of 48 GB that a trial may take, with room for CUDA and another process
LARGE = {  # configurations as published
    "Llama-3.1-8B": ("llama", 128256, 4096, 14336, 32, 32, 8),
    "Qwen2.5-7B": ("qwen2", 152064, 3584, 18944, 28, 28, 4),
    "Mistral-7B-v0.3": ("mistral", 32768, 4096, 14336, 32, 32, 8),
    "Gemma-7B": ("gemma", 256000, 3072, 24576, 28, 16, 16),
}
PARAMETERS = {  # as published
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen2.5-7B": 7_615_616_512,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Gemma-7B": 8_537_680_896,
}
TEXTS = {"dataset": "x", "task": "language-modelling", "max_length": 512, "batch_size": 8}


def large(name: str, layers: int | None = None) -> PreTrainedModel:
    kind, vocabulary, width, inner, depth, heads, groups = LARGE[name]
    fields = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers or depth,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": 256 if kind == "gemma" else width // heads,
        "tie_word_embeddings": kind == "gemma",
    }
    spec = ModelSpec(id=name, dtype="bfloat16")
    return empty(AutoConfig.for_model(kind, **fields), spec, "language-modelling")


@pytest.mark.parametrize("name", LARGE)
def test_a_trial_on_seven_to_eight_billion_fits_an_a6000(name: str) -> None:
    model = large(name)
    found = count(model, batch_like(model, DataSpec(**TEXTS)))
    assert found.weights == 2 * PARAMETERS[name] + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )
    assert found.weights / 2 < found.own < found.weights  # all inside the blocks anew
    assert found.most < A6000


@pytest.mark.parametrize("name", LARGE)
def test_blocks_on_two_cards_leave_each_about_half(name: str) -> None:
    model = large(name)
    batch = batch_like(model, DataSpec(**TEXTS))
    one, two = count(model, batch), count(model, batch, cards=2)
    widest = max(own_bytes(block) for block in blocks(model))
    assert one.weights / 2 <= two.weights <= one.weights / 2 + widest
    assert two.own <= two.weights and two.passing == one.passing
    places = layout(model, 2)
    assert places == sorted(places) and {*places} == {0, 1}
    assert count(model, batch, cards=4).weights < two.weights


LOW = TrainSpec(
    lora_rank=16, checkpointing=True, accumulate=16, batch_size=16, optimiser="adamw", clip=1.0
)


ONE = DataSpec(**TEXTS | {"batch_size": 1})


def test_retraining_eight_billion_by_adapters_fits_an_a6000() -> None:
    model = large("Llama-3.1-8B")
    found = count_training(model, batch_like(model, ONE), LOW)
    assert found.weights > 16e9 and found.own > 13e9 and 0 < found.states < 1e9
    assert found.most < A6000


def test_what_makes_it_fit() -> None:
    """Of the model's first blocks: without adapters weights and moments are as float32; without
    computing blocks again a pass keeps more."""

    def counted(**changed: Any) -> TrainingFootprint:
        model = large("Llama-3.1-8B", layers=2)
        return count_training(model, batch_like(model, ONE), LOW.model_copy(update=changed))

    usual, whole, kept = counted(), counted(lora_rank=0), counted(checkpointing=False)
    assert whole.own == pytest.approx(2 * whole.weights, rel=1e-3)
    assert whole.states == pytest.approx(4 * whole.weights, rel=1e-3)
    assert kept.passing > usual.passing and kept.states == usual.states
    assert counted(optimiser="adamw-8bit").states < usual.states / 3


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vit"])
def test_counted_without_contents_as_measured_with_them(name: str) -> None:
    model = FAMILIES[name]()
    task = "image-classification" if name == "vit" else "language-modelling"
    data = DataSpec(dataset="x", task=task, max_length=12, batch_size=3)
    with torch.device("meta"):
        meta = type(model)(model.config).eval()
    found = count(meta, batch_like(meta, data))
    assert found.weights == own_bytes(model)
    inside = {id(p): p for block in blocks(model) for p in block.parameters()}
    assert found.own == sum(4 * p.numel() for p in inside.values())
    real = {key: torch.zeros_like(one, device="cpu") for key, one in batch_like(meta, data).items()}
    assert peak_memory(model, real) <= found.passing


def test_of_a_study(tmp_path: Path) -> None:
    model = FAMILIES["llama"]()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # weights are not read
    spec = BenchSpec(
        model=ModelSpec(id=str(tmp_path), dtype="bfloat16"),
        data=DataSpec(**TEXTS),
        objectives=("perplexity",),
        cache=str(tmp_path),
    )
    found = footprint(spec)
    assert found.weights >= 2 * sum(p.numel() for p in model.parameters())
    assert "a trial's own" in found.parts() and isinstance(found, Footprint)
    assert footprint(spec.model_copy(update={"cards": 2})).weights < found.weights


@pytest.mark.parametrize("rows", [1, 4])
def test_the_largest_power_of_two_that_fits(rows: int) -> None:
    config = FAMILIES["llama"]().config
    spec = BenchSpec(
        model=ModelSpec(id="x"),
        data=DataSpec(**TEXTS | {"batch_size": "auto", "max_length": 16}),
        objectives=("perplexity",),
        cache="/nowhere",
    )

    def taken(items: int) -> int:
        """What a trial takes with so many."""
        data = spec.data.model_copy(update={"batch_size": rows * items})
        model = empty(config, spec.model, data.task)
        return count(model, batch_like(model, data)).most

    for room in (taken(8), taken(8) + 1, taken(16) - 1):
        assert items_that_fit(spec, config, room, rows, most=100) == 8
    assert items_that_fit(spec, config, taken(8) - 1, rows, most=100) == 4
    assert items_that_fit(spec, config, 0, rows, most=100) == 1  # and fails on its own, if it must
    assert items_that_fit(spec, config, 1e12, rows, most=100) == 64
