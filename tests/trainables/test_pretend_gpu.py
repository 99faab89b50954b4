"""No code forgets the device: all runs on one that refuses CPU tensors, and gives the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.methods import cases
from tests.support import families
from tests.support.benches import TinyData, do, reading_of, tiny_bench
from tests.support.planted import tiny
from tests.support.pretend_gpu import NAME, Literals, Pretend, moved
from tests.support.routing import write_study
from tests.support.toys import bench as bench_of
from tests.support.toys import bytes_tokenizer, jsonl, word_tokenizer
from trainables.bench.bench import Bench
from trainables.bench.data.prompts import Question
from trainables.bench.data.roles import Data, load_data
from trainables.bench.metrics.catalogue import HARNESS_METRICS, METRIC_FACTS
from trainables.bench.metrics.evaluate import measure_all
from trainables.bench.models.batches import ready
from trainables.bench.models.cards import cards, devices_of, spread
from trainables.bench.models.check import check_model
from trainables.bench.models.nonuniform import load_exact, save_exact
from trainables.bench.models.save import save
from trainables.bench.models.verify import logits
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.spec import DataSpec, Role, Task
from trainables.core.types import Batch
from trainables.distill import Distill
from trainables.ilm.states import layer_states
from trainables.magnitude import GradualMagnitude, Magnitude
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator
from trainables.omission.importance import BlockInfluence, windows
from trainables.omission.method import Omission
from trainables.plugin import PlugIn
from trainables.quantize import InHalfPrecision
from trainables.recover import Recover
from trainables.routing.routed_model import RoutedModel
from trainables.routing.router import Router
from trainables.routing.spec import RouterSpec
from trainables.stage import Method, Stage
from trainables.wanda import Wanda, WandaSequential

DEVICE = torch.device(NAME)
CASES = cases(among=("llama", "gpt2", "bert", "t5", "bart", "resnet", "convnext"))
FEWER = cases(among=("llama", "bert", "resnet"))
SEQUENTIAL = [pytest.param(WandaSequential(0.5), name) for name in ("llama", "bert", "vit")]
ROLES: tuple[Role, ...] = ("calibration", "train", "search", "held_out")


@pytest.fixture(autouse=True)
def _literals() -> Iterator[None]:
    with Literals():
        yield


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    there = torch.ones(3, device=DEVICE)
    assert isinstance(there, Pretend) and there.device.type == NAME
    assert (there + 1).cpu().tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3).mul_(there)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


# -- methods -------------------------------------------------------------------------------------


def opened(folder: Path, name: str, *, there: bool) -> Bench:
    """A bench of a family of the contract, here or on the pretended device."""
    model = families.build(name)
    bench = tiny_bench(folder / ("there" if there else "here"), moved(model) if there else model)
    made = {role: families.batches(name) for role in ROLES}
    bench = reading_of(bench, TinyData(model, "classification", made=made))
    return replace(bench, device=DEVICE) if there else bench


@torch.no_grad()
def said(model: PreTrainedModel, batch: Batch) -> Tensor:
    found: Tensor = model(**ready(model, batch, labels=True)).logits
    return found.float().cpu()


@pytest.mark.parametrize(("method", "name"), [*CASES, *SEQUENTIAL])
def test_a_method_does_the_same_there(method: Method, name: str, tmp_path: Path) -> None:
    benches = [opened(tmp_path, name, there=there) for there in (False, True)]
    here, there = (do(bench, method)[0] for bench in benches)
    assert there.counts == here.counts and there.details.keys() == here.details.keys()
    assert {tensor.device.type for tensor in benches[1].model.state_dict().values()} == {NAME}
    one, other = (said(bench.model, families.batches(name)[0]) for bench in benches)
    allowed = 1e-3 * float(one.abs().max())
    if isinstance(method, InHalfPrecision) or getattr(method, "scheme", "") == "int8-dynamic":
        # activations are rounded too, at ties either way: by about what the method itself moves
        allowed = 2 * float(
            (one - said(families.build(name), families.batches(name)[0])).abs().max()
        )
    assert torch.allclose(one, other, atol=allowed)


FAST = {"epochs": 2, "batch_size": 8, "lr": 1e-3}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("bert", Recover(**FAST)),
        ("resnet", Recover(**FAST)),
        ("t5", Recover(**FAST, patience=1)),
        ("vit", Recover(**FAST)),
        ("bert", GradualMagnitude(Magnitude(0.5, "global"), Recover(**FAST), every=2)),
        ("resnet", GradualMagnitude(Magnitude(0.5, granularity="rows"), Recover(**FAST))),
    ],
)
def test_retraining_learns_there_and_is_shared(name: str, stage: Stage, tmp_path: Path) -> None:
    model = moved(tiny(name, depth=2))
    bench = replace(tiny_bench(tmp_path, model), device=DEVICE)
    before = {key: value.clone() for key, value in bench.model.state_dict().items()}
    (summary,) = do(bench, stage)
    after = bench.model.state_dict()
    assert summary.counts["epochs_run"] > 0
    assert any(not torch.equal(before[key], after[key]) for key in before)
    again = replace(tiny_bench(tmp_path, model), device=DEVICE)
    assert do(again, stage)[0].counts["epochs_run"] == 0
    assert {value.device.type for value in again.model.state_dict().values()} == {NAME}
    shared = again.model.state_dict()
    assert all(torch.equal(after[key], shared[key]) for key in after)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("bert", {"hidden": 1.0, "attention": 1.0}), ("resnet", {})],
)
def test_a_student_is_taught_there(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = moved(tiny(name, depth=4))
    stage = Distill(**settings, recover=Recover(**FAST))
    found = []
    for _ in range(2):
        bench = replace(tiny_bench(tmp_path, model), device=DEVICE)
        found.append(do(bench, Omission(skip=(1,)), stage)[1])
        assert {value.device.type for value in bench.model.state_dict().values()} == {NAME}
    assert [one.counts["epochs_run"] for one in found] == [2, 0]


@pytest.mark.parametrize("name", families.DECODERS)
def test_a_layer_is_plugged_in_and_trained_there(name: str, tmp_path: Path) -> None:
    families.build(name).save_pretrained(tmp_path / "donor")
    bench = replace(tiny_bench(tmp_path, moved(tiny("bert", depth=1))), device=DEVICE)
    training = Recover(epochs=1, lr=1e-3, batch_size=4, label_smoothing=0.05, clip=1.0)
    (summary,) = do(bench, PlugIn(str(tmp_path / "donor"), layer=1, training=training))
    assert summary.counts["epochs_run"] == 1
    assert {value.device.type for value in bench.model.state_dict().values()} == {NAME}
    assert bench.measure(["accuracy"]).values["accuracy"] >= 0


@pytest.mark.parametrize("name", families.DECODERS)
def test_the_states_that_ilm_looks_at_are_computed_there(name: str) -> None:
    batches = families.batches(name)
    here = layer_states(families.build(name), batches, "mean")
    there = layer_states(moved(families.build(name)), batches, "mean")
    assert here.device == there.device and torch.allclose(here, there, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "resnet", "vit"])
def test_rankings_and_checks_are_made_there(name: str, tmp_path: Path) -> None:
    here, there = (opened(tmp_path, name, there=there) for there in (False, True))
    one, other = (bench.stats(BlockInfluence)["influence"] for bench in (here, there))
    assert torch.allclose(one, other, atol=1e-4)
    check_model(there.model, families.batch_of(there.model), "classification")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_omission_sets_are_scored_there(name: str) -> None:
    sets = [(), (1,), (1, 2), (2, 3)]
    batches = [{**b, "labels": b["input_ids"]} for b in families.batches(name)]
    for loss in (losses.ppl, losses.kl):
        here = PrefixEvaluator(families.build(name), loss(batches))(sets)
        there = PrefixEvaluator(moved(families.build(name)), loss(batches))(sets)
        assert there == pytest.approx(here, rel=1e-3)
    angles = (windows(m, batches, 2) for m in (families.build(name), moved(families.build(name))))
    assert next(angles) == pytest.approx(next(angles), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_models_begin_there_where_they_first_differ(name: str, tmp_path: Path) -> None:
    bench = opened(tmp_path, name, there=True)
    bench.fork().stats(Wanda)
    own = bench.fork()
    do(own, Omission(skip=(1, 3)))
    found = own.stats(Wanda)
    wanted = Wanda.calibrate(own.model, own.batches("calibration"))
    assert all(torch.equal(one, wanted[key].cpu()) for key, one in found.items())
    assert 0 < own.work.done < own.work.whole
    logits = own.prefixes.forward(own.subject, own.data.batches("search"), own.work)  # type: ignore[union-attr]
    batch = families.batches(name)[0]
    assert torch.equal(
        logits(batch).logits.cpu(), own.model(**ready(own.model, batch)).logits.cpu()
    )


# -- metrics -------------------------------------------------------------------------------------

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def data_of(task: Task, folder: Path) -> tuple[Data, Any]:
    rows: dict[Task, list[dict[str, Any]]] = {
        "language-modelling": [{"text": f"{i} was {i * i} and then {i + 1}"} for i in range(60)],
        "classification": [{"text": f"x{i % 8} {w} on", "label": "abc"[i % 3]} for i, w in WORDY],
        "multiple-choice": [
            {"prompt": f"no {i}", "choices": ["a", "bb"], "answer": i % 2} for i in range(40)
        ],
        "generation": [{"source": f"the cat x{i % 8} {w}", "target": "a dog"} for i, w in WORDY],
    }
    counts = {"calibration": 1, "train": 1, "search": 4, "held_out": 2}
    given = {"dataset": jsonl(folder / "rows.jsonl", rows[task]), "task": task, "items": counts}
    spec = DataSpec.model_validate({**given, "max_length": 24, "batch_size": 2})
    wordy = task in ("classification", "generation")
    tokenizer = word_tokenizer() if wordy else bytes_tokenizer(bos=True)
    return load_data(spec, tokenizer, 0), tokenizer


WORDY = [(i, word) for i in range(8) for word in ("cat", "dog", "mat", "film", "red", "blue")]


def model_of(task: Task) -> PreTrainedModel:
    torch.manual_seed(0)
    if task == "classification":
        config = BertConfig(vocab_size=80, num_hidden_layers=2, num_labels=3, **SIZES)
        return BertForSequenceClassification(config).eval()
    if task == "generation":
        sizes = {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64, "num_layers": 1}
        config = T5Config(vocab_size=80, decoder_start_token_id=0, eos_token_id=2, **sizes)
        return T5ForConditionalGeneration(config).eval()
    config = LlamaConfig(vocab_size=259, num_hidden_layers=2, pad_token_id=0, **SIZES)
    return LlamaForCausalLM(config).eval()


TASKS: list[Task] = ["language-modelling", "classification", "multiple-choice", "generation"]


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_measured_there(task: Task, tmp_path: Path) -> None:
    data, tokenizer = data_of(task, tmp_path)
    ours = {n: facts for n, facts in METRIC_FACTS.items() if n not in HARNESS_METRICS}
    names = [name for name, facts in ours.items() if task in facts.tasks]
    here = measure_all(bench_of(model_of(task), data, tokenizer), names, "search")
    there = measure_all(bench_of(moved(model_of(task)), data, tokenizer), names, "search")
    exact = [name for name in names if not METRIC_FACTS[name].timed]
    assert [there[n] for n in exact] == pytest.approx([here[n] for n in exact], rel=1e-4)
    assert all(there[name] > 0 for name in names if METRIC_FACTS[name].timed)


def test_a_decoder_writes_there(tmp_path: Path) -> None:
    _, tokenizer = data_of("generation", tmp_path)
    spec = DataSpec.model_validate(
        {"dataset": str(tmp_path / "rows.jsonl"), "task": "generation", "batch_size": 2}
        | {"items": {"calibration": 1, "train": 1, "search": 4, "held_out": 1}, "max_length": 24}
    )
    data = load_data(spec, tokenizer, 0, encoder_decoder=False)
    benches = [bench_of(m, data, tokenizer) for m in (small_llama(), moved(small_llama()))]
    here, there = (measure_all(bench, ["rouge_l", "loss"], "search") for bench in benches)
    assert there == pytest.approx(here, rel=1e-4)


def small_llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=80, num_hidden_layers=2, pad_token_id=0, **SIZES)
    return LlamaForCausalLM(config).eval()


# -- routing and export --------------------------------------------------------------------------


def test_a_routed_model_writes_and_scores_there(tmp_path: Path) -> None:
    write_study(tmp_path, tmp_path)
    router = Router.fresh(RouterSpec(encoder=str(tmp_path / "encoder"), max_length=32), 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    prompts = ["Box 1 is", "a much longer prompt than the other"]
    asked = [Question("Box 1 is", (" red", " blue"), 0)]
    found = []
    for there in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
        if there:
            model, router.model = moved(model), moved(router.model)
        routed = RoutedModel(model, tokenizer, router, [(1, 2), (3,)])
        scores = [row.cpu() for row in routed.log_likelihoods(asked)]
        found.append((routed.route(prompts), routed.generate(prompts, max_new_tokens=4), scores))
    assert found[0][:2] == found[1][:2]
    assert torch.allclose(found[0][2][0], found[1][2][0], atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "resnet"])
def test_what_is_saved_from_there_loads_here(name: str, tmp_path: Path) -> None:
    model, batch = families.build(name), families.batches(name)[0]
    wanted = logits(model, batch)
    tasks: dict[str, Task] = {"llama": "language-modelling", "t5": "generation"}
    there = moved(model)
    save(there, None, tasks.get(name, "classification"), tmp_path)
    assert torch.allclose(logits(there, batch), wanted, atol=1e-3)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, batch), wanted)
    (tmp_path / "exact").mkdir()
    save_exact(there, tmp_path / "exact")
    assert torch.equal(logits(load_exact(tmp_path / "exact"), batch), wanted)


# -- two cards -----------------------------------------------------------------------------------

CARDS = [torch.device(NAME, number) for number in range(2)]


def shared_out(folder: Path, name: str) -> Bench:
    """A bench whose model lies on two cards."""
    bench = opened(folder, name, there=False)
    spread(bench.base.model, CARDS)
    return replace(bench, device=DEVICE, spec=bench.spec.model_copy(update={"cards": 2}))


@pytest.mark.parametrize("name", families.FAMILIES)
@torch.no_grad()
def test_a_model_on_two_cards_says_what_it_says_on_one(name: str) -> None:
    one, two = moved(families.build(name)), spread(families.build(name), CARDS)
    batch = families.batches(name)[0]
    assert {*devices_of(fork(two))} == {*CARDS}
    wanted, found = (m(**ready(m, batch, labels=True)).logits for m in (one, fork(two)))
    assert found.device == CARDS[0] and torch.equal(found.cpu(), wanted.cpu())


@pytest.mark.parametrize(("method", "name"), [*FEWER, *SEQUENTIAL])
def test_a_method_does_on_two_cards_what_it_does_on_one(
    method: Method, name: str, tmp_path: Path
) -> None:
    benches = [opened(tmp_path / "1", name, there=True), shared_out(tmp_path / "2", name)]
    one, two = (do(bench, method)[0] for bench in benches)
    assert two.counts == one.counts and two.details == one.details
    batch = families.batches(name)[0]
    assert torch.equal(*(said(bench.model, batch) for bench in benches))


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("bert", Recover(**FAST)),
        ("resnet", Recover(**FAST)),
        ("t5", Recover(**FAST, patience=1)),
        ("bert", Recover(**FAST, lora_rank=2)),
        ("bert", GradualMagnitude(Magnitude(0.5, "global"), Recover(**FAST), every=2)),
        ("bert", Distill(hidden=1.0, attention=1.0, recover=Recover(**FAST))),
    ],
)
def test_retraining_learns_on_two_cards_what_it_learns_on_one(
    name: str, stage: Stage, tmp_path: Path
) -> None:
    found = []
    for number in (1, 2):
        model = tiny(name, depth=4)
        model = moved(model) if number == 1 else spread(model, CARDS)
        bench = replace(tiny_bench(tmp_path / str(number), model), device=DEVICE)
        assert do(bench, Omission(skip=(1,)), stage)[-1].counts["epochs_run"] > 0
        found.append({key: value.cpu() for key, value in bench.model.state_dict().items()})
    for key, one in found[0].items():  # gradients of what several blocks read add up in any order
        torch.testing.assert_close(found[1][key], one, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_measured_on_two_cards(task: Task, tmp_path: Path) -> None:
    data, tokenizer = data_of(task, tmp_path)
    names = [n for n, facts in METRIC_FACTS.items() if task in facts.tasks]
    names = [name for name in names if name not in HARNESS_METRICS]
    models = [moved(model_of(task)), spread(model_of(task), CARDS)]
    one, two = (measure_all(bench_of(model, data, tokenizer), names, "search") for model in models)
    exact = [name for name in names if not METRIC_FACTS[name].timed]
    assert [two[name] for name in exact] == [one[name] for name in exact]
    assert all(two[name] > 0 for name in names if METRIC_FACTS[name].timed)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_omission_sets_are_scored_on_two_cards(name: str) -> None:
    sets = [(), (1,), (1, 2), (2, 3)]
    batches = [{**b, "labels": b["input_ids"]} for b in families.batches(name)]
    for loss in (losses.ppl, losses.kl):
        models = [moved(families.build(name)), spread(families.build(name), CARDS)]
        one, two = (PrefixEvaluator(model, loss(batches))(sets) for model in models)
        assert one == two
    models = [moved(families.build(name)), spread(families.build(name), CARDS)]
    assert [*windows(models[0], batches, 2)] == [*windows(models[1], batches, 2)]


def test_models_on_two_cards_begin_where_they_first_differ(tmp_path: Path) -> None:
    bench = shared_out(tmp_path, "llama")
    bench.fork().stats(Wanda)
    own = bench.fork()
    do(own, Omission(skip=(1, 3)))
    found = own.stats(Wanda)
    wanted = Wanda.calibrate(own.model, own.batches("calibration"))
    assert all(torch.equal(one.cpu(), wanted[key].cpu()) for key, one in found.items())
    assert 0 < own.work.done < own.work.whole


def test_blocks_that_are_not_known_or_share_weights_take_one_card() -> None:
    model = families.build("llama")
    model.model.layers[3].mlp = model.model.layers[0].mlp
    with pytest.raises(PlanError, match="share weights"):
        spread(model, CARDS)
    model.model.layers[3] = nn.Linear(2, 2)
    with pytest.raises(PlanError, match="no family"):
        spread(model, CARDS)


def test_there_is_one_cpu() -> None:
    assert cards(torch.device("cpu"), 2) == [torch.device("cpu")]
    assert cards(DEVICE, 1) == [DEVICE] and cards(DEVICE, 2) == CARDS


@pytest.mark.parametrize("name", families.DECODERS)
def test_a_layer_is_plugged_into_a_model_on_two_cards(name: str, tmp_path: Path) -> None:
    families.build(name).save_pretrained(tmp_path / "donor")
    bench = replace(tiny_bench(tmp_path, spread(tiny("bert", depth=4), CARDS)), device=DEVICE)
    training = Recover(epochs=1, lr=1e-3, batch_size=4)
    (summary,) = do(bench, PlugIn(str(tmp_path / "donor"), layer=1, training=training))
    assert summary.counts["epochs_run"] == 1
    assert bench.measure(["accuracy"]).values["accuracy"] >= 0


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", families.FAMILIES)
@torch.no_grad()
def test_a_model_on_two_gpus_says_what_it_says_on_one(name: str) -> None:
    one, two = (
        spread(families.build(name), cards(torch.device("cuda"), count)) for count in (1, 2)
    )
    batch = families.batches(name)[0]
    wanted, found = (m(**ready(m, batch, labels=True)).logits for m in (one, fork(two)))
    assert len(devices_of(two)) == 2
    torch.testing.assert_close(found.cpu(), wanted.cpu())
