"""Similarity pruning: which blocks go, and that what is left is a sound model of its family."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nan
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from tests.support.planted import FAMILIES, batch_for, plant, tiny
from tests.support.same import same_tensors
from trainables.bench.models.structure import blocks, towers
from trainables.bench.models.surgery import remove_blocks
from trainables.core.errors import FieldError, PlanError
from trainables.core.fork import fork, own
from trainables.core.types import Batch
from trainables.similarity.method import (
    Similarity,
    SimilarityPerSample,
    modules,
    outputs,
    plan,
)
from trainables.stage import Removed

MATRIX = torch.tensor(
    [
        [100.0, 99.0, 97.0, 60.0, 50.0],
        [99.0, 100.0, 99.0, 70.0, 55.0],
        [97.0, 99.0, 100.0, 90.0, 60.0],
        [60.0, 70.0, 90.0, 100.0, 98.0],
        [50.0, 55.0, 60.0, 98.0, 100.0],
    ]
)


@pytest.mark.parametrize(
    ("rule", "threshold", "found"),
    [
        ("anchor", 98, [[0, 1], [2], [3, 4]]),
        ("anchor", 97, [[0, 1, 2], [3, 4]]),
        ("anchor", 99, [[0, 1], [2], [3], [4]]),
        ("anchor", 99.5, [[0], [1], [2], [3], [4]]),
        ("anchor", 50, [[0, 1, 2, 3, 4]]),
        ("adjacent", 98, [[0, 1, 2], [3, 4]]),
        ("adjacent", 90, [[0, 1, 2, 3, 4]]),
    ],
)
def test_modules(rule: str, threshold: float, found: list[list[int]]) -> None:
    assert modules(MATRIX, threshold, rule) == found


def test_a_block_without_similarity_stands_alone() -> None:
    assert modules(torch.tensor([[100.0, nan], [nan, nan]]), 0) == [[0], [1]]


@pytest.mark.parametrize(
    ("k", "fixed", "gone"),
    [
        (1, (), [1, 2, 3, 5, 6, 8]),
        (2, (), [1, 3, 5, 8]),
        (3, (), [1, 5, 8]),
        (1, (0, 2, 8), [1, 3, 5, 6]),
    ],
)
def test_plan(k: int, fixed: tuple[int, ...], gone: list[int]) -> None:
    assert plan([[0, 1, 2, 3], [4, 5, 6], [7, 8]], k, fixed) == gone


def test_fields_say_what_is_allowed() -> None:
    for bad, word in (
        ({"threshold": 101.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"k": 0}, "k"),
        ({"rule": "closest"}, "anchor or adjacent"),
    ):
        with pytest.raises(FieldError, match=word):
            Similarity(**bad)


@pytest.mark.parametrize("method", [Similarity, SimilarityPerSample])
@pytest.mark.parametrize("name", FAMILIES)
def test_planted_modules_are_found(name: str, method: type[Similarity]) -> None:
    """Blocks 2 and 3, then 5, only repeat what came before them."""
    if name == "resnet" and method is SimilarityPerSample:
        pytest.skip("stages have different numbers of positions")
    model = plant(tiny(name), {2, 5} if name == "resnet" else {2, 3, 5})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stats = method.calibrate(model, [batch_for(model, seed=s) for s in range(3)])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    trial = fork(model)
    summary = method(threshold=99.9).apply(trial, stats)
    assert summary.effects == (Removed((2, 5) if name == "resnet" else (2, 3, 5)),)
    left = len(blocks(model)) - summary.counts["removed"]
    assert summary.counts["blocks"] == len(blocks(trial)) == left
    after = sum(parameter.numel() for parameter in trial.parameters())
    assert summary.counts["parameters"] == after
    assert len(summary.pictures) == len(towers(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_left_is_a_sound_model(name: str, tmp_path: Path) -> None:
    """Forwards, trains a step, saves, loads with plain transformers, gives equal logits."""
    model = plant(tiny(name), {2, 5} if name == "resnet" else {2, 3, 5})
    batch = batch_for(model)
    original = model(**batch).logits
    trial = fork(model)
    Similarity(threshold=99.9).apply(trial, Similarity.calibrate(model, [batch]))
    assert not torch.equal(trial(**batch).logits, original)
    _one_step(trial, batch)
    trial.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert len(blocks(again)) == len(blocks(trial)) < len(blocks(model))
    assert same_tensors(again, trial)
    own(again)  # memory-mapped weights are aligned otherwise, which convolutions round by
    assert torch.equal(again(**batch).logits, trial(**batch).logits)


def _one_step(model: PreTrainedModel, batch: Batch) -> None:
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    model(**batch).loss.backward()
    assert all(p.grad is not None for b in blocks(model) for p in b.parameters())
    optimiser.step()


def test_t5_generates_the_same_with_and_without_a_cache(tmp_path: Path) -> None:
    model = plant(tiny("t5"), {2, 3, 7, 8, 10})
    batch = batch_for(model)
    summary = Similarity(threshold=99.9).apply(model, Similarity.calibrate(model, [batch]))
    assert summary.effects == (Removed((2, 3, 7, 8, 10)),)
    assert summary.details["kept_per_stack"] == [4, 3]
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    made = [
        which.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=use_cache)
        for which in (model, again)
        for use_cache in (True, False)
    ]
    assert all(torch.equal(made[0], other) for other in made[1:])


def test_t5_with_the_deeper_decoder_generates_too(tmp_path: Path) -> None:
    model = tiny("t5")
    remove_blocks(model, [2, 3, 4, 5])
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    inputs = {name: value for name, value in batch_for(model).items() if name != "labels"}
    made = [which.generate(**inputs, max_new_tokens=8) for which in (model, again)]
    assert torch.equal(*made) and made[0].shape[1] > 2
    assert again.generation_config.use_cache is False


def test_encoder_and_decoder_are_clustered_apart() -> None:
    model = plant(tiny("t5", depth=3), {0, 1, 2, 3, 4, 5})
    summary = Similarity(threshold=99.9).apply(
        model, Similarity.calibrate(model, [batch_for(model)])
    )
    assert summary.details["modules"] == [[0, 1, 2], [3, 4, 5]]
    assert summary.details["kept_per_stack"] == [1, 1], "the owners of the relative bias stay"


def test_a_stage_of_a_resnet_keeps_its_opening() -> None:
    model = plant(tiny("resnet"), {1, 2, 4, 5})
    stats = Similarity.calibrate(model, [batch_for(model, seed=s) for s in range(3)])
    summary = Similarity(threshold=0.0).apply(model, stats)
    assert summary.details["kept_per_stack"] == [1, 1]


def test_all_different_means_the_original() -> None:
    model = plant(tiny("bert"), set())
    summary = Similarity(threshold=99.9).apply(
        model, Similarity.calibrate(model, [batch_for(model)])
    )
    assert summary.effects == ()
    assert summary.counts["removed"] == 0


def test_padding_does_not_count() -> None:
    """What lies under the pads changes nothing, and neither do more of them."""
    model = plant(tiny("bert"), {2})
    batch = batch_for(model)
    wider = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=7),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    for method in (Similarity, SimilarityPerSample):
        one, other = method.calibrate(model, [batch]), method.calibrate(model, [wider])
        torch.testing.assert_close(one["matrix.0"], other["matrix.0"], rtol=0, atol=1e-2)


def test_short_last_minibatch_is_dropped_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("bert", depth=2)
    full, short = batch_for(model), batch_for(model, size=3, seed=1)
    with caplog.at_level(logging.WARNING):
        stats = Similarity.calibrate(model, [full, short])
    assert "3 examples left out, 8 used" in caplog.text
    assert torch.equal(stats["matrix.0"], Similarity.calibrate(model, [full])["matrix.0"])


def test_nothing_to_measure_is_said() -> None:
    model = tiny("bert", depth=2)
    with pytest.raises(PlanError, match="a minibatch needs 4"):
        Similarity.calibrate(model, [batch_for(model, size=3)])
    with pytest.raises(PlanError, match="no labels"):
        t5 = tiny("t5", depth=1)
        Similarity.calibrate(t5, [{"input_ids": batch_for(t5)["input_ids"]}])
    with pytest.raises(PlanError, match="equally many positions"):
        resnet = tiny("resnet")
        SimilarityPerSample.calibrate(resnet, [batch_for(resnet)])


def test_a_block_that_never_runs_is_an_error() -> None:
    model = tiny("bert", depth=2)
    encoder = model.base_model.encoder
    encoder.forward = lambda hidden, *args, **kwargs: _only_first(encoder, hidden)
    with pytest.raises(PlanError, match=r"blocks \[1\] never ran"):
        outputs(model, batch_for(model))
    assert not any(block._forward_hooks for block in blocks(model))


def _only_first(encoder: torch.nn.Module, hidden: Tensor) -> object:
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

    return BaseModelOutputWithPoolingAndCrossAttentions(encoder.layer[0](hidden))
