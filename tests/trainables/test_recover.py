"""Retraining: deterministic, shared, resumed where it stopped, and honest about what is frozen."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support import families
from tests.support.benches import do, tiny_bench
from tests.support.planted import FAMILIES, plant, tiny
from tests.support.routing import write_study
from tests.support.same import same_tensors
from trainables.bench.bench import Bench
from trainables.bench.models.structure import blocks, family, linears, reach
from trainables.bench.models.surgery import silence
from trainables.bench.training.examples import examples, shuffled, steps
from trainables.bench.training.freeze import cut_neighbours, frozen, neighbours, train_mode
from trainables.bench.training.loop import Training, deterministic, give, tensors_of
from trainables.core.errors import FieldError, UserError
from trainables.core.fork import put
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec, TrainSpec
from trainables.omission.method import Omission
from trainables.recover import Recover, loss_of, zeros
from trainables.similarity.method import Similarity
from trainables.stage import Removed, Stage, Summary, Trained
from trainables.trial import open_bench
from trainables.wanda import Wanda

FAST = {"epochs": 2, "lr": 1e-3, "batch_size": 8}


def losses(bench: Bench, stage: Stage) -> list[float]:
    return [step["train_loss"] for step in stage.on(bench)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns(name: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny(name, depth=2))
    untouched = {key: value.clone() for key, value in bench.base.model.state_dict().items()}
    found = losses(bench, Recover(epochs=4, lr=5e-3, batch_size=8, schedule="constant"))
    assert len(found) == 4 and found[-1] < found[0]
    assert not bench.model.training
    base = bench.base.model.state_dict()
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
    assert len({one.subject.lineage for one in (first, second, naive)}) == 1
    assert not list((tmp_path / "checkpoints").iterdir())


def test_shared_progress_is_told_again(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    stage = Recover(**FAST, watch="accuracy")
    told = [list(stage.on(tiny_bench(tmp_path, model))) for _ in range(2)]
    assert told[0] == told[1]
    assert [sorted(step) for step in told[0]] == [["accuracy", "epoch", "train_loss"]] * 2


def test_with_another_library_it_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ran = tiny("bert", depth=1), []
    for version in ("0.0.1", "0.0.1", "0.0.2"):
        monkeypatch.setattr("transformers.__version__", version)
        (summary,) = do(tiny_bench(tmp_path, model), Recover(**FAST))
        ran.append(summary.counts["epochs_run"])
    assert ran == [2, 0, 2]


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
    told = [next(running) for _ in range(3)]
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
    epoch = Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda self: ran.append(1) or epoch(self))
    assert len(list(stage.on(tiny_bench(tmp_path, model)))) == 3
    assert len(ran) == 1, "two epochs lay in the checkpoint"


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
    assert cut.effects == (Removed((2, 7)),) and cut.details["neighbours"] == [1, 2, 5, 6]
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    (summary,) = do(bench, Recover(**FAST, freeze="part"))
    assert summary.details["frozen_blocks"] == [0, 3, 4, 7]
    assert summary.counts["frozen"] == 4 and summary.label == "retrained"
    moved = {
        name for name, value in bench.model.state_dict().items() if not value.equal(before[name])
    }
    still = _names(bench.model, summary.details["frozen_blocks"])
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
    base, recover = tiny("bert", depth=10), Summary((Trained({}),))

    def beside(*effects: Summary, left: int) -> list[int]:
        return cut_neighbours(base, tiny("bert", depth=left), [(Omission(), e) for e in effects])

    early = Summary((Removed((2, 3)),))
    late = Summary((Removed((5,)),))
    assert beside(early, left=8) == [1, 2]
    assert beside(early, late, left=7) == [1, 2, 4, 5]
    assert beside(early, recover, late, left=7) == [4, 5]
    assert beside(early, recover, Summary(), left=8) == [1, 2]


def test_half_precision_models_keep_their_dtype(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1).to(torch.bfloat16))
    do(bench, Recover(**FAST, precision="bfloat16"))
    assert {p.dtype for p in bench.model.parameters()} == {torch.bfloat16}
    shared = tiny_bench(tmp_path, bench.base.model)
    assert do(shared, Recover(**FAST, precision="bfloat16"))[0].counts["epochs_run"] == 0
    assert same_tensors(shared.model, bench.model)


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    stage = Recover(epochs=30, lr=0.3, optimiser="sgd", batch_size=8, patience=2)
    found = [step["search_loss"] for step in stage.on(bench)]
    assert len(found) < 30 and min(found) == found[-3]
    assert stage._search_loss(bench) == pytest.approx(min(found), rel=1e-6)


def test_a_broken_loss_says_what_to_do(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    with pytest.raises(UserError, match=r"training loss is (nan|inf); lower lr"):
        do(bench, Recover(epochs=3, lr=1e30, optimiser="sgd", batch_size=8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("batch_size", 0),
        ("warmup", 1.0),
        ("weight_decay", -1.0),
        ("patience", -1),
        ("epochs", True),
        ("lr", float("nan")),
        ("epoch", 3),
        ("optimiser", "lion"),
        ("schedule", "step"),
        ("freeze", "all"),
        ("precision", "fp8"),
    ],
)
def test_fields_say_what_is_allowed(field: str, value: object) -> None:
    with pytest.raises(FieldError, match=field):
        Recover(**{field: value})


def test_settings_are_flat_and_a_stage_comes_back_from_plain_data() -> None:
    stage = Recover(TrainSpec(epochs=2, lr=1e-4), freeze="part", watch="accuracy", batch_size=8)
    told = stage.settings()
    assert (told["epochs"], told["lr"], told["batch_size"]) == (2, 1e-4, 8)
    assert (told["freeze"], told["patience"], told["watch"]) == ("part", 0, "accuracy")
    assert Stage.from_dict(json.loads(json.dumps(stage.to_dict()))) == stage
    assert replace(stage, freeze="none").training == stage.training
    assert len({stage, Recover(stage.training, freeze="part", watch="accuracy")}) == 1


def test_what_is_watched_must_be_a_metric_of_the_task(tmp_path: Path) -> None:
    """Told before the first epoch."""
    for name in ("perplexity", "acuracy"):
        bench = tiny_bench(tmp_path, tiny("bert", depth=1))
        with pytest.raises(FieldError, match=rf"watch = '{name}'.*accuracy.*classification"):
            next(Recover(**FAST, watch=name).on(bench))


def test_the_biases_of_what_was_silenced_stay_zero(tmp_path: Path) -> None:
    """A silent output has zero weights and a zero bias; other zero biases are free to learn."""
    bench = tiny_bench(tmp_path, tiny("vit", depth=2))
    silence(blocks(bench.model)[0], family(bench.model).contract)
    layers = linears(bench.model)
    half = [layer for layer in layers.values() if layer.weight.shape[0] == 48][-1]
    put(half, "weight", half.weight.detach() * (torch.arange(48) % 2)[:, None])
    for layer in layers.values():
        put(layer, "bias", torch.zeros_like(layer.bias))
    before = {name: layer.weight == 0 for name, layer in layers.items()}
    do(bench, Recover(**FAST, weight_decay=0.1))
    for name, layer in linears(bench.model).items():
        assert torch.equal(layer.weight == 0, before[name])
        assert not layer.bias[before[name].all(1)].any()
    assert torch.equal(half.bias == 0, before["vit.layers.1.mlp.fc1"].all(1)), "others learn"


@pytest.mark.parametrize("name", families.FAMILIES)
def test_what_was_silenced_is_found_in_every_family(name: str) -> None:
    model = families.build(name)
    first, row = blocks(model)[0], family(model)
    path = row.contract or "layer.0.convolution"
    before = {id(parameter) for parameter, _ in zeros(model)}
    assert not before & {id(layer.weight) for layer in linears(model).values()}
    silence(first, path)
    found = {id(parameter): mask for parameter, mask in zeros(model)}
    for parameter in reach(first, path).parameters():
        assert found[id(parameter)].all()
    assert len(found) - len(before) == len(list(reach(first, path).parameters()))


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_a_classifier_made_for_another_problem_learns_classes(kind: str, tmp_path: Path) -> None:
    found = []
    for problem in (kind, None):
        model = tiny("bert", depth=1)
        model.config.problem_type = problem
        bench = tiny_bench(tmp_path / str(problem), model)
        do(bench, Recover(**FAST, patience=1))
        assert bench.model.config.problem_type == problem
        found.append(bench.model)
    assert same_tensors(*found)


def test_questions_are_watched_by_their_right_answers(tmp_path: Path) -> None:
    """The loss that patience compares is the loss of training."""
    write_study(tmp_path / "made", tmp_path)
    items = ItemCounts(calibration=4, train=12, search=6, held_out=6)
    data = DataSpec(
        dataset=str(tmp_path / "made" / "colours.jsonl"),
        task="multiple-choice",
        max_length=96,
        items=items,
        batch_size=4,
    )
    model = ModelSpec(id=str(tmp_path / "made" / "model"))
    place = str(tmp_path / "cache")
    bench = open_bench(BenchSpec(model=model, data=data, objectives=("accuracy",), cache=place))
    asked = bench.data.items("search")
    parts = [bench.data.adapter.batch(asked[start : start + 4], "train") for start in (0, 4)]
    with torch.no_grad():
        wanted = [float(bench.model(**part).loss) * len(part["labels"]) for part in parts]
    found = list(Recover(epochs=2, lr=1e-9, patience=1).on(bench))
    assert found[0]["search_loss"] == pytest.approx(sum(wanted) / 6, rel=1e-5)


def test_what_another_kind_of_device_trained_is_another_model(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    there = SimpleNamespace(device=torch.device("cuda"), seed=bench.seed, data=bench.data)
    here, found = (Recover(**FAST)._identity(one, None) for one in (bench, there))  # type: ignore[arg-type]
    assert {name for name in here if here[name] != found[name]} == {"device"}


def test_training_on_a_gpu_is_deterministic_and_leaves_the_flags_alone() -> None:
    cudnn, before = torch.backends.cudnn, _flags()
    with deterministic(torch.device("cuda")):
        assert _flags() == (True, False, True, True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert _flags() == before and cudnn.benchmark == before[1]
    with deterministic(torch.device("cpu")):
        assert _flags() == before


def test_every_step_is_taken_deterministically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, seen, step = [False], list[bool](), Training._step

    @contextmanager
    def noted(device: torch.device) -> Iterator[None]:
        inside.append(device.type == "cpu")
        yield
        inside.append(False)

    def taken(self: Training, *given: Any) -> float:
        seen.append(inside[-1])
        return step(self, *given)

    monkeypatch.setattr("trainables.bench.training.loop.deterministic", noted)
    monkeypatch.setattr(Training, "_step", taken)
    do(tiny_bench(tmp_path, tiny("bert", depth=1)), Recover(**FAST))
    assert seen and all(seen)


def _flags() -> tuple[bool, bool, bool, bool]:
    return (
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def test_a_checkpoint_that_the_disk_lost_a_part_of_is_trained_anew(tmp_path: Path) -> None:
    model, stage = tiny("bert", depth=1), Recover(**FAST)
    running = stage.on(tiny_bench(tmp_path, model))
    next(running)
    running.close()
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    bench, whole = tiny_bench(tmp_path, model), tiny_bench(tmp_path / "whole", model)
    assert do(bench, stage)[0].counts["epochs_run"] == 2
    do(whole, stage)
    assert same_tensors(bench.model, whole.model)


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


# -- smoothing, clipping, the best epoch, a seed of one's own -------------------------------------


def test_smoothed_targets_are_torchs(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    batch = tiny_bench(tmp_path, model).data.batches("train")[0]
    wanted = nn.functional.cross_entropy(
        model(**batch).logits, batch["labels"], label_smoothing=0.05
    )
    assert torch.equal(loss_of(model, batch, 0.05), wanted)
    assert torch.equal(loss_of(model, batch), model(**batch).loss)
    decoder = families.build("llama")
    rows = families.batch_of(decoder)
    rows["labels"][0, :4] = -100
    assert torch.allclose(loss_of(decoder, rows, 1e-9), decoder(**rows).loss, atol=1e-5)


def test_all_gradients_together_are_cut(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    before = model.state_dict()
    moved = []
    for clip in (None, 1e-3):
        bench = tiny_bench(tmp_path, model, naive=True)
        do(bench, Recover(epochs=1, lr=0.1, batch_size=8, optimiser="sgd", clip=clip))
        after = bench.model.state_dict()
        moved.append(sum(float((after[n] - before[n]).abs().sum()) for n in before))
    assert 0 < moved[1] < moved[0] / 10


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_best_epoch_stays(metric: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=2), naive=True)
    stage = Recover(epochs=5, lr=2e-2, batch_size=8, schedule="constant", best=metric)
    seen = [step[metric] for step in stage.on(bench)]
    assert len(set(seen)) > 1, "epochs that differ"
    best = max(seen) if metric == "accuracy" else min(seen)
    assert bench.measure([metric]).values[metric] == pytest.approx(best)


def test_a_seed_of_its_own_gives_every_model_the_same_order(tmp_path: Path) -> None:
    benches = [
        replace(
            tiny_bench(tmp_path / str(seed), tiny("bert", depth=1), naive=True, seed=seed),
            by=str(seed),
        )
        for seed in (0, 1)
    ]
    seen = [losses(one, Recover(epochs=1, lr=1e-3, batch_size=4, seed=7)) for one in benches]
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["nonsense", "rouge_l", "latency_ms"])
def test_the_best_epoch_is_judged_by_a_metric_of_the_task(name: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=1))
    with pytest.raises(FieldError, match=f"Recover.best = '{name}'.*allowed"):
        do(bench, Recover(epochs=1, best=name))
