"""Quantization against torchao applied directly, and bits chosen against all choices."""

import copy
import itertools
import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    quantize_,
)
from torchao.quantization.granularity import PerAxis, PerGroup
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tests.support.benches import do, tiny_bench
from tests.support.families import COMMON, batches, build
from tests.support.toys import bytes_tokenizer
from trainables.bench.metrics.cost import (
    count_nonzero,
    count_parameters,
    own_bytes,
    peak_memory,
    saved_bytes,
)
from trainables.bench.models.packed.form import needs_packing
from trainables.bench.models.packed.quantized import Scheme, schemes
from trainables.bench.models.save import save
from trainables.bench.models.structure import blocks, linears
from trainables.bench.models.verify import logits, prove
from trainables.codebook import Codebook
from trainables.core.cache import digest_tensors
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.quantize import (
    WIDTHS,
    InHalfPrecision,
    Quantize,
    QuantizeMixed,
    cheapest,
    check,
    divergence,
    quantizable,
)
from trainables.recover import Recover
from trainables.stage import check_order
from trainables.wanda import Wanda

THEIRS = {
    "int8": Int8WeightOnlyConfig(set_inductor_config=False),
    "int8-dynamic": Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
    "int4": IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(16)),
    "int3": IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=PerGroup(16)),
    "float8": Float8WeightOnlyConfig(set_inductor_config=False),
}


@pytest.mark.parametrize("scheme", THEIRS)
@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vit"])
def test_logits_are_those_of_torchao_applied_directly(scheme: str, name: str) -> None:
    model, batch = build(name), batches(name)[0]
    own, theirs = fork(model), copy.deepcopy(model)
    Quantize(scheme, group=16).apply(own, {})
    inside = {layer for layer in linears(theirs).values() if isinstance(layer, nn.Linear)}
    quantize_(theirs, THEIRS[scheme], filter_fn=lambda module, _: module in inside)
    assert torch.equal(logits(own, batch), logits(theirs, batch))
    assert not torch.equal(logits(own, batch), logits(model, batch))


def test_a_row_that_a_group_does_not_divide_has_one_scale() -> None:
    own, theirs = fork(build("bert")), copy.deepcopy(build("bert"))
    Quantize("int4", group=20).apply(own, {})
    whole = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0))
    inside = set(linears(theirs).values())
    quantize_(theirs, whole, filter_fn=lambda module, _: module in inside)
    batch = batches("bert")[0]
    assert torch.equal(logits(own, batch), logits(theirs, batch))


def test_what_is_spared_stays() -> None:
    model = build("bert")
    own = fork(model)
    summary = Quantize("int8", spare=("attention",), spare_blocks=(0, 2)).apply(own, {})
    names = [
        f"bert.encoder.layer.{n}.{part}.dense"
        for n in (1, 3)
        for part in ("intermediate", "output")
    ]
    assert sorted(schemes(own)) == sorted(names)
    assert summary.counts["quantized_layers"] == 4
    assert summary.label == "int8 but attention, block 0, block 2"
    before, after = dict(model.named_parameters()), dict(own.named_parameters())
    for name, weight in before.items():
        if name.removesuffix(".weight") not in names:
            assert torch.equal(weight, after[name]), name


def test_nothing_quantized_is_the_same_model() -> None:
    own = fork(build("bert"))
    assert Quantize(spare_blocks=(0, 1, 2, 3)).apply(own, {}).effects == ()
    assert Quantize(spare=("ffn", "attention", "other")).apply(own, {}).effects == ()


def test_kinds_of_layers_are_found_by_structure() -> None:
    kinds = {name: kind for name, (_, kind) in quantizable(build("llama")).items()}
    assert kinds["model.layers.0.self_attn.q_proj"] == "attention"
    assert kinds["model.layers.3.mlp.down_proj"] == "ffn"
    decoder = quantizable(build("t5"))
    assert decoder["decoder.block.0.layer.1.EncDecAttention.q"] == (3, "other")


@pytest.mark.parametrize("name", ["gpt2", "resnet"])
def test_a_model_without_linears_is_one_message(name: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"its blocks have no nn\.Linear"):
        check(tiny_bench(tmp_path, build(name)), ["int8"])


@pytest.mark.parametrize("scheme", ["float8-dynamic", "int4-kernel"])
def test_what_this_device_cannot_is_one_sentence(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match=f"{scheme} does not run on cpu in float32: .*a GPU of compute"
    ):
        check(tiny_bench(tmp_path, build("bert")), ["int8", scheme])


def test_a_block_that_is_not_there_is_one_message() -> None:
    with pytest.raises(PlanError, match=r"spare_blocks: got \[9\]; allowed: 0 to 3"):
        Quantize(spare_blocks=(9,)).apply(fork(build("bert")), {})


def test_a_tied_table_is_refused() -> None:
    with pytest.raises(PlanError, match="tied to the head"):
        Quantize(embeddings=True).apply(fork(build("gemma3_text")), {})


# -- what it costs, and as what it is saved --------------------------------------------------------


def test_metrics_of_a_quantized_model_count_what_is_there() -> None:
    model, batch = build("bert"), batches("bert")[0]
    own = fork(model)
    Quantize("int8").apply(own, {})
    weights = sum(layer.weight.numel() for layer in linears(model).values())
    rows = sum(layer.weight.shape[0] for layer in linears(model).values())
    assert count_parameters(own) == count_parameters(model)
    assert 0 < count_nonzero(own) < count_nonzero(model)
    assert own_bytes(model) - own_bytes(own) == 3 * weights - 5 * rows  # a scale and a zero each
    assert saved_bytes(own) < saved_bytes(model)
    assert peak_memory(own, batch) > 0
    assert digest_tensors(own.state_dict()) != digest_tensors(model.state_dict())


@pytest.mark.parametrize(("scheme", "plain"), [("int8-dynamic", True), ("int4", False)])
def test_a_fresh_process_says_the_same(scheme: str, plain: bool, tmp_path: Path) -> None:
    own = fork(build("bert"))
    Quantize(scheme, embeddings=True).apply(own, {})
    saved = save(own, bytes_tokenizer(), "classification", tmp_path)
    assert saved.plain is plain and ("torchao" in saved.note) is plain
    assert ("transformers" in saved.load) is plain
    assert prove(saved.load, tmp_path, own, batches("bert")[0]).equal
    assert (tmp_path / "model.safetensors").stat().st_size == saved_bytes(own)


def test_four_bits_take_half_of_eight() -> None:
    model = build("bert")
    eight, four = fork(model), fork(model)
    Quantize("int8").apply(eight, {})
    Quantize("int4", group=32).apply(four, {})
    weights = sum(layer.weight.numel() for layer in linears(model).values())
    assert needs_packing(four) and not needs_packing(eight)
    tensors = saved_bytes(model) - 4 * weights  # what is not quantized, and the header
    scales = sum(-(-layer.weight.numel() // 32) * 4 for layer in linears(model).values())
    assert saved_bytes(four) - tensors - scales < weights // 2 + 400 * len(linears(model))


@pytest.mark.parametrize("name", ["bert", "t5", "llama"])
def test_half_precision_halves_the_file(name: str) -> None:
    model = build(name)
    own = fork(model)
    assert InHalfPrecision("bfloat16").apply(own, {}).effects
    assert own.dtype == torch.bfloat16 and model.dtype == torch.float32
    assert 0.4 < saved_bytes(own) / saved_bytes(model) < 0.6
    assert InHalfPrecision("bfloat16").apply(own, {}).effects == ()


# -- how many bits ---------------------------------------------------------------------------------


def test_the_block_that_suffers_most_keeps_its_bits() -> None:
    harm = [[5.0, 1.0, 0.0], [9.0, 8.0, 0.0], [1.0, 1.0, 0.0]]
    sizes = [[2, 4, 8]] * 3
    assert cheapest(harm, sizes, 14) == (1, 2, 0)  # 4 + 8 + 2: 1 + 0 + 1
    assert cheapest(harm, sizes, 24) == (2, 2, 2)
    assert cheapest(harm, sizes, 6) == (0, 0, 0)
    assert cheapest(harm, sizes, 5) is None


def test_the_choice_is_the_best_of_all() -> None:
    draw = random.Random(0)
    for _ in range(60):
        harm = [[draw.choice([0.0, draw.random()]) for _ in range(3)] for _ in range(5)]
        sizes = [[draw.randint(1, 9) for _ in range(3)] for _ in range(5)]
        most = draw.randint(5, 45)
        found = cheapest(harm, sizes, most)
        fitting = [
            choice
            for choice in itertools.product(range(3), repeat=5)
            if sum(size[i] for size, i in zip(sizes, choice, strict=True)) <= most
        ]
        costs = [sum(h[i] for h, i in zip(harm, choice, strict=True)) for choice in fitting]
        if found is None:
            assert not fitting
            continue
        assert sum(size[i] for size, i in zip(sizes, found, strict=True)) <= most
        assert sum(h[i] for h, i in zip(harm, found, strict=True)) == pytest.approx(min(costs))


def test_divergence_by_hand() -> None:
    even, sure = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log()  # which is 0 to 3: certain
    assert divergence(even, even) == 0
    assert divergence(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()) == (
        pytest.approx(0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3)))
    )
    assert divergence(sure.clamp(min=-50), sure.clamp(min=-50)) == 0


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_harm_is_measured_with_one_block_rounded(name: str) -> None:
    model, data = build(name), batches(name)
    harm = QuantizeMixed.calibrate(model, data)["harm"]
    assert harm.shape == (len(blocks(model)), len(WIDTHS))
    assert bool((harm > 0).all()) and bool((harm[:, 0] > harm[:, -1]).all())


def three_classes() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**COMMON, num_labels=3)).eval()


def test_a_budget_is_kept_and_measured_once(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, three_classes())
    dense = sum(layer.weight.nbytes for layer in linears(bench.model).values())
    for budget in (0.15, 0.2, 0.3):
        own = bench.fork()
        (summary,) = do(own, QuantizeMixed(budget))
        assert set(summary.details["bits"]) <= set(WIDTHS)
        layers = linears(own.model).values()
        bits = [schemes(own.model)[n].bits for n in linears(own.model)]
        packed = sum(b * one.weight.numel() / 8 for b, one in zip(bits, layers, strict=True))
        assert packed <= budget * dense
    assert len(list((tmp_path / "stats").glob("*.safetensors"))) == 1
    with pytest.raises(PlanError, match=r"budget: got 0\.01; allowed: 0\.\d+ or more"):
        do(bench.fork(), QuantizeMixed(0.01))


# -- chains ----------------------------------------------------------------------------------------


def test_what_cannot_follow_is_told_by_the_order() -> None:
    check_order([Wanda(0.5), InHalfPrecision(), Recover(), Quantize("int8")])
    for later in (Wanda(0.5), Recover(), Codebook(4), Quantize("int4"), InHalfPrecision()):
        with pytest.raises(PlanError, match=f"{type(later).__name__} after Quantize, which leaves"):
            check_order([Quantize("int8"), later])


def test_a_pruned_model_keeps_its_zeros(tmp_path: Path) -> None:
    own = tiny_bench(tmp_path, three_classes()).fork()
    do(own, Wanda(0.5), Quantize("int8"))
    for layer in linears(own.model).values():
        assert float((layer.weight.dequantize() == 0).double().mean()) >= 0.5
    assert Scheme("int8").bits == 8
