"""PiFi as a stage: what learns and moves, sharing and resuming, metrics, export, chains."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from tests.support import families
from tests.support.benches import do, tiny_bench
from tests.support.plugged import donor, encoder, opened
from tests.support.same import same_tensors
from tests.support.toys import jsonl
from trainables.bench.bench import Bench
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models.save import save
from trainables.bench.models.structure import blocks
from trainables.bench.models.verify import logits
from trainables.bench.training.loop import Training
from trainables.core.errors import FieldError, PlanError, UserError
from trainables.core.fork import fork
from trainables.ilm import ILM
from trainables.load import load
from trainables.omission import Omission
from trainables.plugin import PlugIn
from trainables.plugin.donor import Donor
from trainables.plugin.model import plugged
from trainables.recover import Recover
from trainables.stage import Bench as AnyBench
from trainables.stage import Stage, Summary, drain
from trainables.testing import check_data
from trainables.wanda import Wanda

FAST = Recover(epochs=2, lr=1e-3, batch_size=8, optimiser="adam", schedule="constant", clip=5.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    for name in families.DECODERS:
        donor(folder / name, name)
    (folder / "llama" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(scope="module")
def bench(place: Path) -> Bench:
    return opened(place)


def stage(place: Path, name: str = "llama", **given: Any) -> PlugIn:
    return PlugIn(str(place / name), **{"training": FAST, **given})


def tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def begun(place: Path, bench: AnyBench, name: str = "llama", **given: Any) -> PreTrainedModel:
    """The plugged model before any training."""
    return plugged(bench.base.model, Donor(str(place / name)).give([-1]), seed=2023, **given)


@pytest.mark.parametrize("name", families.DECODERS)
def test_the_layer_stays_and_all_else_moves(name: str, place: Path, bench: Bench) -> None:
    before = tensors(begun(place, bench, name))
    one = bench.fork()
    (summary,) = do(one, stage(place, name))
    after = tensors(one.model)
    assert set(after) == set(before)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    still = {name for name in after if name not in moved}
    assert {name for name in after if ".layers." in name and name.startswith("plug")} <= still
    assert all(n.startswith(("plug.layers", "bert.pooler")) for n in still), "nothing else"
    added = count_parameters(one.model) - count_parameters(bench.base.model)
    assert summary.counts["added_parameters"] == added
    learning = count_parameters(one.model, learning=True)
    layer = count_parameters(blocks(families.build(name))[3])
    assert summary.counts["trained_parameters"] == learning == count_parameters(one.model) - layer


def test_a_layer_that_learns_moves(place: Path, bench: Bench) -> None:
    before = tensors(begun(place, bench))
    one = bench.fork()
    do(one, stage(place, frozen=False))
    after = tensors(one.model)
    name = "plug.layers.0.mlp.down_proj.weight"
    assert not torch.equal(after[name], before[name])


def test_the_comparison_has_the_same_head_and_no_layer(place: Path, bench: Bench) -> None:
    with_layer, without = begun(place, bench), plugged(bench.base.model, None, seed=2023)
    heads = [
        {n: v for n, v in tensors(m).items() if "classifier" in n} for m in (with_layer, without)
    ]
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    one = bench.fork()
    (summary,) = do(one, PlugIn(training=FAST))
    assert summary.label == "no layer" and summary.counts["donor_bytes"] == 0


def test_it_learns_and_is_measured_like_any_model(place: Path, bench: Bench) -> None:
    one = bench.fork()
    do(one, stage(place, training=replace_training(epochs=12, lr=3e-3)))
    names = ["accuracy", "macro_f1", "loss", "parameters", "bytes", "latency_ms", "peak_memory"]
    found = one.measure([*names, "evaluation_seconds", "nonzero_parameters"]).values
    assert found["accuracy"] > 0.8
    assert found["parameters"] == sum(p.numel() for p in one.model.parameters())


def replace_training(**changed: Any) -> Recover:
    return Recover(FAST.training, **changed)


def test_shared_is_naive_and_the_frozen_layer_is_not_stored(place: Path, tmp_path: Path) -> None:
    donor(tmp_path / "llama")
    shared, naive = opened(tmp_path), opened(tmp_path, naive=True)
    one, two = shared.fork(), shared.fork()
    (first,), (second,) = do(one, stage(tmp_path)), do(two, stage(tmp_path))
    do(naive, stage(tmp_path))
    assert (first.counts["epochs_run"], second.counts["epochs_run"]) == (2, 0)
    assert same_tensors(one.model, two.model) and same_tensors(one.model, naive.model)
    assert one.lineage == two.lineage == naive.lineage
    (stored,) = (tmp_path / "cache" / "recovered").glob("*.safetensors")
    from safetensors import safe_open

    with safe_open(stored, framework="pt") as file:
        assert not [name for name in file.keys() if "plug.layers" in name]  # noqa: SIM118


def test_a_training_that_was_cut_off_ends_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor(tmp_path / "llama")
    settings = stage(tmp_path, training=replace_training(epochs=3, best="accuracy"))
    whole = opened(tmp_path, naive=True)
    do(whole, settings)
    cut = opened(tmp_path).fork()
    epoch = Training.epoch

    def failing(self: Training) -> Any:
        if len(self.progress) == 2:
            raise KeyboardInterrupt
        return epoch(self)

    monkeypatch.setattr(Training, "epoch", failing)
    with pytest.raises(KeyboardInterrupt):
        drain(settings.on(cut))
    monkeypatch.setattr(Training, "epoch", epoch)
    again = opened(tmp_path).fork()
    (summary,) = do(again, settings)
    assert summary.counts["epochs"] == 3
    assert same_tensors(again.model, whole.model)


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 1},
        {"layers": 2},
        {"pooling": "mean"},
        {"frozen": False},
        {"random": True},
        {"dropout": 0.0},
        {"seed": 1},
    ],
)
def test_what_decides_the_model_is_in_its_lineage(
    changed: dict[str, Any], place: Path, bench: Bench
) -> None:
    found = []
    for one in (stage(place), stage(place, **changed)):
        trial = bench.fork()
        do(trial, one)
        found.append((trial.lineage.key, tensors(trial.model)))
    assert found[0][0] != found[1][0]
    same = found[0][1].keys() == found[1][1].keys() and all(
        torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1]
    )
    assert not same


def test_ilms_pick_and_the_same_layer_by_number_are_one_model(place: Path, bench: Bench) -> None:
    look = ILM(str(place / "llama"), n_pcs=4, top_pc=2, n_samples=40, draws=20)
    chosen, given = bench.fork(), bench.fork()
    (picked,) = do(chosen, stage(place, choose=look))
    (named,) = do(given, stage(place, layer=int(picked.counts["layer"])))
    assert chosen.lineage == given.lineage and named.counts["epochs_run"] == 0
    assert picked.counts["layer"] == picked.counts["pick"]
    (other,) = do(bench.fork(), stage(place, layer=0, choose=look))
    assert other.counts["layer"] == 0 and other.counts["pick"] == picked.counts["pick"]
    assert other.counts["effect"] == picked.details["selection"]["effects"][0]
    assert picked.pictures


# -- as a folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_an_export_loads_as_it_was(name: str, dtype: str, place: Path, tmp_path: Path) -> None:
    model = {"id": str(encoder(tmp_path / "encoder", name)), "dtype": dtype}
    one = opened(place, model=model).fork()
    do(one, stage(place, training=replace_training(epochs=1)))
    (tmp_path / "out").mkdir()
    saved = save(one.model, one.processor, "classification", tmp_path / "out")
    assert not saved.plain and "Rayduce" in saved.note
    assert saved.licences == {"layer 3 (from 0 on) of llama": "apache-2.0"}
    again, batch = load(tmp_path / "out"), one.data.batches("held_out")[0]
    assert same_tensors(again, one.model) and again.dtype == getattr(torch, dtype)
    assert torch.equal(logits(again, batch), logits(one.model, batch))
    assert not again.training and again.plug.short


def test_a_fresh_process_loads_it_for_a_tokenizers_call_and_a_pipeline(
    place: Path, tmp_path: Path
) -> None:
    one = opened(place).fork()
    do(one, stage(place))
    folder = tmp_path / "out"
    folder.mkdir()
    save(one.model, one.processor, "classification", folder)
    code = f"""
import json
from transformers import AutoTokenizer, pipeline
from trainables.load import load
model, tokenizer = load({str(folder)!r}), AutoTokenizer.from_pretrained({str(folder)!r})
logits = model(**tokenizer("a good film", return_tensors="pt")).logits
told = pipeline("text-classification", model=model, tokenizer=tokenizer)("a good film")
print(json.dumps([logits.argmax(-1).tolist(), told[0]["label"]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (number,), label = json.loads(done.stdout.splitlines()[-1])
    assert one.model.config.id2label[number] == label in ("good", "bad")


# -- chains ----------------------------------------------------------------------------------------


def test_a_pruned_model_takes_a_layer_and_a_plugged_one_is_pruned(
    place: Path, bench: Bench
) -> None:
    one = bench.fork()
    do(one, Omission(skip=(0,)), stage(place), Wanda(0.5))
    assert len(blocks(one.model)) == 1
    own = Donor(str(place / "llama")).give([-1]).tensors[0]
    kept = one.model.plug.layers[0].state_dict()
    assert all(torch.equal(kept[name], own[name]) for name in own), "the layer is not pruned"
    zeros = [float((b.weight == 0).float().mean()) for b in one.model.modules() if _inner(b)]
    assert max(zeros) >= 0.4


def _inner(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def test_a_fork_is_apart(place: Path, bench: Bench) -> None:
    model = begun(place, bench)
    before, other = tensors(model), fork(model)
    assert type(other) is type(model)
    other.plug.into.weight = torch.nn.Parameter(torch.zeros_like(other.plug.into.weight))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not other.plug.layers[0].mlp.up_proj.weight.requires_grad


# -- between encoder and decoder -------------------------------------------------------------------


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Path]:
    rows = [
        {"source": f"the cat x{i % 8} {i // 8}", "target": f"a dog x{i % 8}"} for i in range(80)
    ]
    jsonl(tmp_path / "pairs.jsonl", rows)
    yield tmp_path


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_layer_between_encoder_and_decoder(name: str, writers: Path, place: Path) -> None:
    counts = {"calibration": 8, "train": 24, "search": 8, "held_out": 8}
    data = {"dataset": str(writers / "pairs.jsonl"), "task": "generation", "items": counts}
    one = opened(
        writers,
        model={"id": str(whole(writers / name, name))},
        data={**data, "max_length": 12, "batch_size": 8},
        objectives=("loss", "rouge_l"),
    ).fork()
    before = tensors(one.model)
    do(one, stage(place, layer=1, training=replace_training(best="loss")))
    after = tensors(one.model)
    layer = Donor(str(place / "llama")).give([1]).tensors[0]
    assert all(torch.equal(after[f"plug.layers.0.{n}"], v) for n, v in layer.items())
    assert any(not torch.equal(after[n], before[n]) for n in before)
    assert set(one.measure(["loss", "rouge_l"]).values) == {"loss", "rouge_l"}
    (writers / "out").mkdir()
    saved = save(one.model, one.processor, "generation", writers / "out")
    assert "trainables.load" in saved.load
    tokenizer, again = AutoTokenizer.from_pretrained(writers / "out"), load(writers / "out")
    asked = tokenizer(["the cat x1 2", "the cat"], return_tensors="pt", padding=True)
    asked.pop("token_type_ids", None)
    given = {"max_new_tokens": 5, "do_sample": False, "num_beams": 1}
    assert torch.equal(again.generate(**asked, **given), one.model.generate(**asked, **given))
    batch = one.data.batches("held_out")[0]
    assert torch.allclose(logits(again, batch), logits(one.model, batch), atol=1e-6)
    with torch.no_grad():
        again.plug.out.weight.zero_()
    assert not torch.allclose(logits(again, batch), logits(one.model, batch)), "it is in the way"


def whole(folder: Path, name: str) -> Path:
    """An encoder-decoder with its head, saved."""
    from tests.support.toys import word_tokenizer

    families.build(name).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"layers": 0},
        {"layer": 1.5},
        {"pooling": "max"},
        {"dropout": 1.0},
        {"seed": -1},
        {"choose": ILM("another")},
    ],
)
def test_fields_say_what_is_allowed(bad: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match=rf"PlugIn\.{next(iter(bad))} = .*allowed"):
        PlugIn("x", **bad)


def test_people_read_which_layer_it_is_and_how_ilm_looked() -> None:
    told = PlugIn("x", 0, ILM("x", n_pcs=8, lambdas=(0.0, 1.0), score="held_out")).settings()
    assert told["layer"] == "0"  # what is 0 is left out of lines, but this is a layer
    looked = {name: value for name, value in told.items() if name.startswith("choose.")}
    assert looked == {
        "choose.n_pcs": 8,
        "choose.top_pc": 5,
        "choose.lambdas": (0.0, 1.0),
        "choose.n_samples": 400,
        "choose.pooling": "mean",
        "choose.score": "held_out",
    }
    assert PlugIn("x").settings()["layer"] is None


def test_it_comes_back_from_plain_data() -> None:
    one = PlugIn("x", 3, ILM("x"), layers=2, training=FAST)
    check_data(one)
    assert Stage.from_dict(one.to_dict()) == one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layer": 9}, "layer of .*got 9"),
        ({"layers": 2, "layer": 3}, "layer of .*got 4"),
        ({"choose": True}, "calibration has 40"),
        ({"training": replace_training(best="rouge_l")}, "Recover.best"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    given: dict[str, Any], said: str, place: Path, bench: Bench
) -> None:
    if given.get("choose"):
        given = {"choose": ILM(str(place / "llama"), n_samples=400)}
    with pytest.raises(UserError, match=said):
        do(bench.fork(), stage(place, **given))


def test_a_small_model_that_reads_only_backwards_needs_another_pooling(
    place: Path, tmp_path: Path
) -> None:
    one = opened(tmp_path, model={"id": str(encoder(tmp_path / "small", "llama"))}).fork()
    with pytest.raises(PlanError, match=r"first token.*mean"):
        do(one, stage(place))
    do(one, stage(place, pooling="mean", training=replace_training(epochs=1)))


def test_images_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="image-classification"):
        do(tiny_bench(tmp_path, families.build("vit")), stage(place))


def test_nothing_of_a_bench_is_left_changed(place: Path, bench: Bench) -> None:
    before = tensors(bench.base.model)
    hooks = sum(len(m._forward_hooks) for m in bench.base.model.modules())
    (summary,) = do(bench.fork(), stage(place))
    assert isinstance(summary, Summary)
    assert all(torch.equal(before[n], v) for n, v in bench.base.model.state_dict().items())
    assert hooks == sum(len(m._forward_hooks) for m in bench.base.model.modules()) == 0
