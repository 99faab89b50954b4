"""The loop's own choices: batches together, an early end, blocks computed again, 8-bit states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.benches import do, tiny_bench
from tests.support.planted import tiny
from tests.support.same import same_tensors
from trainables.bench.training.loop import grouped, steps_of
from trainables.core.errors import PlanError
from trainables.core.places import CHECKOUT
from trainables.core.spec import TrainSpec
from trainables.recover import Recover

FAST = {"epochs": 2, "lr": 1e-3, "precision": "full"}


@pytest.mark.parametrize(
    ("spec", "batches", "steps"),
    [
        (TrainSpec(epochs=3), 5, 15),
        (TrainSpec(epochs=3, accumulate=2), 5, 9),
        (TrainSpec(epochs=3, accumulate=8), 5, 3),
        (TrainSpec(epochs=3, max_steps=7), 5, 7),
        (TrainSpec(epochs=3, max_steps=70), 5, 15),
    ],
)
def test_how_many_steps_there_are(spec: TrainSpec, batches: int, steps: int) -> None:
    assert steps_of(spec, batches) == steps


def test_batches_are_taken_so_many_at_a_time() -> None:
    numbers = [{"x": torch.tensor(n)} for n in range(5)]
    sizes = [[int(one["x"]) for one in some] for some in grouped(numbers, 2)]
    assert sizes == [[0, 1], [2, 3], [4]]


def test_batches_together_are_one_large_batch(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    whole, parts = (tiny_bench(tmp_path / n, model, naive=True) for n in ("whole", "parts"))
    do(whole, Recover(**FAST, batch_size=8, optimiser="sgd"))
    do(parts, Recover(**FAST, batch_size=4, accumulate=2, optimiser="sgd"))
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_it_ends_after_so_many_steps_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1), naive=True)
    (done,) = do(bench, Recover(epochs=5, batch_size=4, max_steps=1))
    assert done.counts["epochs"] == 1
    other = tiny_bench(tmp_path, tiny("bert", depth=1), naive=True)
    do(other, Recover(epochs=5, batch_size=4, max_steps=2))
    assert not same_tensors(bench.model, other.model)


def test_blocks_computed_again_give_the_same_gradients(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    benches = [tiny_bench(tmp_path / str(on), model, naive=True) for on in (False, True)]
    for bench, on in zip(benches, (False, True), strict=True):
        do(bench, Recover(**FAST, checkpointing=on))
    assert same_tensors(benches[0].model, benches[1].model)
    assert not benches[1].model.is_activation_checkpointing
    plain = tiny_bench(tmp_path / "resnet", tiny("resnet", depth=2), naive=True)
    plain.model.__class__.supports_gradient_checkpointing, before = (
        False,
        plain.model.__class__.supports_gradient_checkpointing,
    )
    try:
        with pytest.raises(PlanError, match="checkpointing"):
            do(plain, Recover(**FAST, checkpointing=True))
    finally:
        plain.model.__class__.supports_gradient_checkpointing = before


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    plain, decayed = (tiny_bench(tmp_path / n, model, naive=True) for n in ("plain", "decayed"))
    tiny_step = {"epochs": 1, "lr": 1e-9, "max_steps": 1, "schedule": "constant"}
    do(plain, Recover(**tiny_step))
    do(decayed, Recover(**tiny_step, weight_decay=1e8))
    before = dict(plain.model.named_parameters())
    for name, value in decayed.model.named_parameters():
        was, now = float(before[name].detach().norm()), float(value.detach().norm())
        assert (now < was * 0.95) == (value.dim() > 1 and was > 0), name


EIGHT_BIT = """
import torch
from trainables.bench.training.loop import Recipe, Training
from trainables.core.spec import TrainSpec
from transformers import LlamaConfig, LlamaForCausalLM
from pathlib import Path
import sys

config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                     num_attention_heads=2, vocab_size=128)

def training(epochs=3):
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    rows = torch.randint(0, 128, (8, 12))
    batch = {"input_ids": rows, "labels": rows}
    spec = TrainSpec(optimiser="adamw-8bit", epochs=epochs, lr=1e-3)
    recipe = Recipe(spec, lambda seed: [batch] * 4, 4, lambda m, b: m(**b).loss, lambda e: e)
    return Training(model, recipe)

whole = training()
losses = [whole.epoch()["train_loss"] for _ in range(3)]
assert losses[-1] < losses[0], losses
kinds = {type(v).__name__ for state in whole.optimiser.state.values() for v in state.values()}
assert "OptimState8bit" in kinds, kinds
first = training()
first.epoch()
first.save(Path(sys.argv[1]))
second = training()
assert second.resume(Path(sys.argv[1]))
second.epoch(), second.epoch()
for one, other in zip(whole.model.parameters(), second.model.parameters()):
    assert torch.equal(one, other)
"""


def test_moments_in_a_byte_each_learn_and_are_resumed(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", EIGHT_BIT, str(tmp_path / "kept.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
