"""Batches fit the model: its dtype, its targets, whatever is to be told."""

from pathlib import Path

import pytest
import torch

from tests.support.benches import TinyData, reading_of, tiny_bench
from tests.support.families import batch_of, kind
from tests.support.planted import tiny
from trainables.bench.metrics.predictions import Evaluation
from trainables.bench.models.batches import ready, real_positions
from trainables.recover import Recover
from trainables.stage import drain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_take_the_models_dtype_on_every_path(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny("resnet").to(dtype)
    bench = tiny_bench(tmp_path, model)
    batch = next(iter(bench.batches("calibration")))
    assert batch["pixel_values"].dtype == dtype and batch["labels"].dtype == torch.int64
    assert next(Evaluation(bench, "search").batches())["pixel_values"].dtype == dtype
    names = ["accuracy", "loss", "latency_ms", "peak_memory", "evaluation_seconds"]
    assert all(value >= 0 for value in bench.measure(names).values.values())
    drain(Recover(epochs=1, batch_size=4).on(bench))
    assert bench.model.dtype == dtype


def test_labels_are_left_out_unless_a_decoder_reads_them() -> None:
    batch = {"input_ids": torch.ones(2, 3).long(), "labels": torch.ones(2).long()}
    assert "labels" not in ready(tiny("bert"), batch)
    assert "labels" in ready(tiny("bert"), batch, labels=True)
    assert "labels" in ready(tiny("t5"), batch)


def test_a_decoder_that_classifies_reads_the_input() -> None:
    mask = torch.tensor([[1, 1, 0]])
    batch = {"attention_mask": mask, "labels": torch.tensor([1])}
    assert torch.equal(real_positions(batch, 1), mask.bool())
    written = {"attention_mask": mask, "labels": torch.tensor([[5, -100]])}
    assert real_positions(written, 1).tolist() == [[True, False]]


def test_an_encoder_decoder_that_classifies_is_retrained(tmp_path: Path) -> None:
    model = kind("bart_classifier")
    bench = tiny_bench(tmp_path, model)
    made = {role: [batch_of(model)] for role in ("calibration", "train", "search", "held_out")}
    bench = reading_of(bench, TinyData(model, "classification", made=made))
    before = bench.measure(["loss"]).values["loss"]
    drain(Recover(epochs=3, lr=1e-3, batch_size=2, schedule="constant").on(bench))
    bench.subject = bench.subject.after(Recover(), drain(Recover(epochs=1).on(bench)))
    assert bench.measure(["loss"]).values["loss"] < before
