"""Retraining: deterministic, shared, resumed where it stopped, and honest about what is frozen."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.benches import do, tiny_bench
from tests.support.planted import FAMILIES, plant, tiny
from trainables.bench.bench import Bench
from trainables.bench.models.structure import blocks, linears
from trainables.bench.training.examples import examples, shuffled, steps
from trainables.bench.training.freeze import cut_neighbours, frozen, neighbours, train_mode
from trainables.bench.training.loop import Run, give, tensors_of
from trainables.core.errors import FieldError, UserError
from trainables.core.fork import same_tensors
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.stage import Stage, Summary
from trainables.wanda import Wanda

FAST = {"epochs": 2, "lr": 1e-3, "batch_size": 8}


def losses(bench: Bench, stage: Stage) -> list[float]:
    return [step["train_loss"] for step in stage.on(bench)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns(name: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny(name, depth=2))
    untouched = {key: value.clone() for key, value in bench.base.state_dict().items()}
    found = losses(bench, Recover(epochs=4, lr=5e-3, batch_size=8, schedule="constant"))
    assert len(found) == 4 and found[-1] < found[0]
    assert not bench.model.training
    base = bench.base.state_dict()
    assert all(torch.equal(value, base[key]) for key, value in untouched.items())


def test_the_same_twice_is_the_same_and_a_seed_is_not(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    stage = Recover(**FAST, schedule="cosine", warmup=0.2, weight_decay=1e-3)
    benches = [tiny_bench(tmp_path / str(i), model, naive=True, seed=i // 2) for i in range(3)]
    for bench in benches:
        do(bench, stage)
    assert same_tensors(benches[0].model, benches[1].model)
    assert not same_tensors(benches[0].model, benches[2].model)


def test_outside_numbers_are_left_alone(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    do(bench, Recover(**FAST))
    assert torch.equal(torch.rand(3), wanted)


def test_trained_once_then_shared_and_equal_to_naive(tmp_path: Path) -> None:
    model = plant(tiny("bert"), {2, 3, 5})
    chain = [Similarity(99.9), Recover(**FAST, watch="accuracy"), Wanda(0.5), Recover(**FAST)]
    first, second = tiny_bench(tmp_path, model), tiny_bench(tmp_path, model)
    naive = tiny_bench(tmp_path, model, naive=True)
    ran = [do(bench, *chain) for bench in (first, second, naive)]
    assert [s.counts["epochs_run"] for s in (ran[0][1], ran[0][3])] == [2, 2]
    assert [s.counts["epochs_run"] for s in (ran[1][1], ran[1][3])] == [0, 0]
    assert same_tensors(first.model, second.model) and same_tensors(first.model, naive.model)
    assert first.lineage == second.lineage == naive.lineage
    assert not list((tmp_path / "checkpoints").iterdir())


def test_shared_progress_is_told_again(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    stage = Recover(**FAST, watch="accuracy")
    told = [list(stage.on(tiny_bench(tmp_path, model))) for _ in range(2)]
    assert told[0] == told[1]
    assert [sorted(step) for step in told[0]] == [["accuracy", "epoch", "train_loss"]] * 2


def test_an_evicted_model_is_trained_again(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    first, second = tiny_bench(tmp_path, model), tiny_bench(tmp_path, model)
    do(first, Recover(**FAST))
    for entry in (tmp_path / "recovered").glob("*.safetensors"):
        entry.unlink()
    first.cache.release()
    assert do(second, Recover(**FAST))[0].counts["epochs_run"] == 2
    assert same_tensors(first.model, second.model)


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
def test_an_interrupted_training_goes_on(optimiser: Any, tmp_path: Path) -> None:
    model = tiny("resnet", depth=2)
    stage = Recover(
        epochs=4, lr=1e-3, batch_size=8, optimiser=optimiser, patience=3, schedule="linear"
    )
    whole = tiny_bench(tmp_path / "whole", model)
    do(whole, stage)
    cut = tiny_bench(tmp_path / "cut", model)
    running = stage.on(cut)
    told = [next(running) for _ in range(3)]  # the third epoch's checkpoint was not yet written
    running.close()
    again = tiny_bench(tmp_path / "cut", model)
    resumed = list(stage.on(again))
    assert resumed[:3] == told and len(resumed) == 4
    assert same_tensors(again.model, whole.model)


def test_only_the_rest_is_trained_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stage = tiny("bert", depth=1), Recover(epochs=3, lr=1e-3, batch_size=8)
    running = stage.on(tiny_bench(tmp_path, model))
    next(running)
    next(running)
    running.close()
    ran = []
    epoch = Run.epoch
    monkeypatch.setattr(Run, "epoch", lambda self: ran.append(1) or epoch(self))
    assert len(list(stage.on(tiny_bench(tmp_path, model)))) == 3
    assert len(ran) == 2, "one epoch lay in the checkpoint"


def test_checkpoints_nobody_went_on_with_are_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, age in (("old.pt", 8), ("fresh.pt", 6)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (0, time.time() - age * 24 * 3600))
    do(tiny_bench(tmp_path, tiny("bert", depth=1)), Recover(**FAST))
    assert [path.name for path in folder.iterdir()] == ["fresh.pt"]


def test_zeros_stay_zero_and_the_rest_learns(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=2))
    do(bench, Wanda(0.5))
    before = {name: layer.weight.clone() for name, layer in linears(bench.model).items()}
    do(bench, Recover(epochs=2, lr=1e-2, batch_size=8, weight_decay=0.1))
    for name, layer in linears(bench.model).items():
        assert torch.equal(layer.weight == 0, before[name] == 0)
        assert not torch.equal(layer.weight, before[name])


def test_part_trains_the_neighbours_of_cuts_only(tmp_path: Path) -> None:
    """By gradients, by weights, and by BatchNorm's running statistics."""
    bench = tiny_bench(tmp_path, plant(tiny("resnet", depth=10), {2, 7}))
    (cut,) = do(bench, Similarity(99.9))
    assert cut.effect == {"remove": [2, 7]} and cut.counts["neighbours"] == [1, 2, 5, 6]
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    (summary,) = do(bench, Recover(**FAST, freeze="part"))
    assert summary.counts["frozen"] == [0, 3, 4, 7]
    moved = {
        name for name, value in bench.model.state_dict().items() if not value.equal(before[name])
    }
    still = _names(bench.model, summary.counts["frozen"])
    assert not moved & still, "weights and running statistics of frozen blocks"
    assert moved == set(before) - still, "stem, head and neighbours all learn"
    assert all(parameter.requires_grad for parameter in bench.model.parameters())


def _names(model: PreTrainedModel, numbers: list[int]) -> set[str]:
    """Names of everything inside the numbered blocks, counters of batches included."""
    prefixes = {module: name for name, module in model.named_modules()}
    inside = tuple(f"{prefixes[blocks(model)[number]]}." for number in numbers)
    return {name for name in model.state_dict() if name.startswith(inside)}


def test_frozen_blocks_get_no_gradients() -> None:
    model = tiny("resnet", depth=4)
    with frozen(model, [1]) as still:
        assert still == [0, 2, 3]
        train_mode(model, still)
        model(pixel_values=torch.randn(4, 3, 8, 8), labels=torch.zeros(4).long()).loss.backward()
    for number, block in enumerate(blocks(model)):
        assert all((p.grad is not None) == (number == 1) for p in block.parameters())
        norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(norm.training == (number == 1) for norm in norms)
    outside = dict(model.named_parameters())["classifier.1.weight"]
    assert outside.grad is not None


@pytest.mark.parametrize(
    ("before", "kept", "runs", "beside"),
    [
        (range(6), {0, 1, 4, 5}, [range(6)], [1, 2]),
        (range(6), {0, 1, 2}, [range(6)], [2]),  # a cut at the end has one neighbour
        (range(6), {0, 1, 3, 4, 5}, [range(3), range(3, 6)], [1]),  # not across stacks
        ([0, 1, 4, 5], {0, 1, 4}, [range(6)], [2]),  # an older gap is no cut
        (range(3), {0, 1, 2}, [range(3)], []),
    ],
)
def test_neighbours(before: Any, kept: set[int], runs: Any, beside: list[int]) -> None:
    assert neighbours(list(before), kept, runs) == beside


def test_cuts_are_those_since_the_last_training() -> None:
    base, recover = tiny("bert", depth=10), Summary({"recover": {}})

    def beside(*effects: Summary, left: int) -> list[int]:
        return cut_neighbours(base, tiny("bert", depth=left), [(Omission(), e) for e in effects])

    early = Summary({"remove": [2, 3]})
    late = Summary({"remove": [5]})
    assert beside(early, left=8) == [1, 2]
    assert beside(early, late, left=7) == [1, 2, 4, 5]
    assert beside(early, recover, late, left=7) == [4, 5]
    assert beside(early, recover, Summary({"wanda": {}}), left=8) == [1, 2]


def test_half_precision_models_keep_their_dtype(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1).to(torch.bfloat16))
    do(bench, Recover(**FAST, precision="bfloat16"))
    assert {p.dtype for p in bench.model.parameters()} == {torch.bfloat16}
    shared = tiny_bench(tmp_path, bench.base)
    assert do(shared, Recover(**FAST, precision="bfloat16"))[0].counts["epochs_run"] == 0
    assert same_tensors(shared.model, bench.model)


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    stage = Recover(epochs=30, lr=0.3, optimiser="sgd", batch_size=8, patience=2)
    found = [step["search_loss"] for step in stage.on(bench)]
    assert len(found) < 30 and min(found) == found[-3]
    run = Run(stage, bench, [])
    assert run.epoch() and run._search_loss() != pytest.approx(min(found), abs=1e-9)


def test_a_broken_loss_says_what_to_do(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    with pytest.raises(UserError, match=r"lower Recover.lr"):
        do(bench, Recover(epochs=3, lr=1e30, optimiser="sgd", batch_size=8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("batch_size", 0),
        ("warmup", 1.0),
        ("weight_decay", -1.0),
        ("optimiser", "lion"),
        ("schedule", "step"),
        ("freeze", "all"),
        ("precision", "fp8"),
    ],
)
def test_fields_say_what_is_allowed(field: str, value: object) -> None:
    with pytest.raises(FieldError, match=field):
        Recover(**{field: value})


def test_ties_survive_training_and_sharing(tmp_path: Path) -> None:
    model = tiny("t5", depth=1)
    for _ in range(2):
        bench = tiny_bench(tmp_path, model)
        do(bench, Recover(**FAST))
        assert bench.model.shared.weight is bench.model.encoder.embed_tokens.weight
    assert set(tensors_of(model)) < set(model.state_dict())


def test_giving_tensors_writes_into_nothing() -> None:
    model = tiny("resnet", depth=2)
    before = {name: value for name, value in tensors_of(model).items()}
    copies = {name: value.clone() for name, value in before.items()}
    give(model, {name: value + 1 for name, value in before.items()})
    assert all(torch.equal(before[name], copies[name]) for name in before)
    assert all(torch.equal(v, copies[n] + 1) for n, v in tensors_of(model).items())


def _texts() -> list[dict[str, Tensor]]:
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])
    labels = torch.tensor([[1, 2, -100, -100], [3, -100, -100, -100]])
    return [{"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}]


def test_examples_lose_their_padding() -> None:
    apart = examples(_texts(), apart=True)
    assert [row["input_ids"].tolist() for row in apart] == [[5, 6, 7], [8, 9]]
    assert [row["labels"].tolist() for row in apart] == [[1, 2], [3]]
    together = examples(_texts())
    assert [len(row["labels"]) for row in together] == [3, 2]


def test_shuffled_batches_hold_every_example_but_a_rest_of_one() -> None:
    rows = [{"labels": torch.tensor(n), "input_ids": torch.arange(n + 1)} for n in range(7)]
    batches = list(shuffled(rows, 3, seed=1, filler=9))
    assert [len(b["labels"]) for b in batches] == [3, 3] and steps(7, 3) == 2
    assert steps(8, 3) == 3 and steps(1, 3) == 1 == len(list(shuffled(rows[:1], 3, 0)))
    assert len({int(n) for b in batches for n in b["labels"]}) == 6
    widest = batches[0]["input_ids"]
    assert widest[batches[0]["labels"].argmin(), -1] == 9
    assert not torch.equal(
        torch.cat([b["labels"] for b in shuffled(rows, 3, 1)]),
        torch.cat([b["labels"] for b in shuffled(rows, 3, 2)]),
    )
