"""Neuron pruning on models: what is measured, what is cut, and that a cut is a smaller mask."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedModel,
)

from tests.support.benches import do, tiny_bench
from tests.support.families import FAMILIES, MORE, batch_of, batches, build, kind
from tests.support.planted import batch_for, tiny
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models.nonuniform import padded
from trainables.bench.models.save import misfits
from trainables.bench.models.structure import blocks, rows, towers
from trainables.bench.models.verify import logits
from trainables.core.errors import PlanError
from trainables.core.fork import fork, put
from trainables.core.types import IGNORED, Batch, Stats
from trainables.neurons import Neurons
from trainables.neurons import method as method_module
from trainables.neurons.calibrate import Activations, AnswerActivations, Gradients, Weights
from trainables.neurons.ffn import ffns
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.testing import applied
from trainables.wanda import Wanda

EQUAL = (
    "llama",
    "gemma3_text",
    "gpt2",
    "phi3",
    "opt",
    "t5",
    "bert",
    "bart",
    "vit",
    "gemma3n",
)
SCORES = ("activation", "weight", "wanda", "gradient")
CASES = [(name, "activation") for name in EQUAL]
CASES += [(name, score) for name in ("llama", "gpt2", "phi3", "t5") for score in SCORES[1:]]


def model_and_batch(name: str) -> tuple[PreTrainedModel, Batch]:
    model = build(name) if name in FAMILIES or name in MORE else kind(name)
    return model, batch_of(model)


# -- cut, masked, padded ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "score"), CASES)
def test_masked_cut_and_padded_models_say_the_same(name: str, score: str) -> None:
    model, batch = model_and_batch(name)
    method = Neurons(0.3, score=score, edge_protect=1)  # type: ignore[arg-type]
    small, summary = applied(method, model, [batch])
    masked, told = applied(replace(method, mode="mask"), model, [batch])
    wanted = logits(masked, batch)
    allowed = 1e-5 * float(wanted.abs().max())
    assert not torch.allclose(wanted, logits(model, batch), atol=allowed)
    assert torch.allclose(logits(small, batch), wanted, atol=allowed)
    assert count_parameters(masked) == count_parameters(model) > count_parameters(small)
    assert summary.counts["neurons_removed"] == told.counts["neurons_masked"] > 0
    widths = [one.width for one in ffns(small)]
    assert widths == summary.details["widths"] == told.details["widths"]
    if name == "gemma3n":  # its config has a list of widths
        assert small.config.intermediate_size == widths and misfits(small) == []
    else:
        assert len(set(widths)) > 1 and misfits(small) != []
        wide = padded(small)
        assert misfits(wide) == [] and torch.allclose(logits(wide, batch), wanted, atol=allowed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", SCORES)
def test_half_precision(score: str, dtype: torch.dtype) -> None:
    model = build("gemma3_text").to(dtype)
    own, summary = applied(Neurons(0.25, score=score), model, batches("gemma3_text"))  # type: ignore[arg-type]
    assert summary.counts["neurons_removed"] > 0
    assert {p.dtype for p in own.parameters()} == {dtype}
    assert torch.isfinite(logits(own, batches("gemma3_text")[0])).all()


@pytest.mark.parametrize("name", ["llama", "phi3", "t5", "bart"])
def test_one_width_for_all_fits_the_config(name: str) -> None:
    model, batch = model_and_batch(name)
    own, summary = applied(Neurons(0.3, uniform=True, round_to=4), model, [batch])
    assert set(summary.details["widths"]) == {36}  # 48 * .7 = 33.6, up to a multiple of 4
    assert misfits(own) == []


def test_ties_stay_ties_and_nothing_else_changes() -> None:
    model = build("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    own, _ = applied(Neurons(0.3), model, batches("llama"))
    assert own.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    changed = {
        name
        for name, value in own.state_dict().items()
        if value.shape != model.state_dict()[name].shape
    }
    assert changed and all(".mlp." in name for name in changed)


def test_a_second_stage_starts_from_uneven_widths() -> None:
    model, data = build("gpt2"), batches("gpt2")
    first, one = applied(Neurons(0.3), model, data)
    second, two = applied(Neurons(0.3), first, data)
    assert two.counts["neurons"] == one.counts["neurons"] - two.counts["neurons_removed"]
    masked, _ = applied(Neurons(0.3, mode="mask"), first, data)
    assert torch.allclose(logits(second, data[0]), logits(masked, data[0]), atol=1e-4)
    even, three = applied(Neurons(0.3, uniform=True, max_prune_per_layer=0.9), first, data)
    assert len(set(three.details["widths"])) == 1 and misfits(even) == []


def test_dead_and_silenced_neurons_go_first() -> None:
    model, data = fork(build("llama")), batches("llama")
    for number, one in enumerate(ffns(model)):
        weight = rows(one.expand[0]).detach().clone()
        weight[number : number + 4] = 0  # act(0) * up = 0
        put(one.expand[0], "weight", weight)
    own, summary = applied(Neurons(16 / 192, edge_protect=0), model, data)
    assert summary.details["widths"] == [44] * 4
    assert torch.allclose(logits(own, data[0]), logits(model, data[0]), atol=1e-5)


def test_models_without_neurons_to_prune_are_refused() -> None:
    with pytest.raises(PlanError, match="family resnet has no feed-forward layers"):
        Neurons(0.1).apply(build("resnet"), {})
    with pytest.raises(PlanError, match=r"no neuron may go: .*got \[0.45, 48\]; allowed: .*48"):
        applied(Neurons(0.1, min_neurons_per_layer=48), build("llama"), batches("llama"))
    shared = build("bert")
    layers = blocks(shared)
    layers[1].intermediate.dense.weight = layers[0].intermediate.dense.weight
    with pytest.raises(PlanError, match="blocks share their feed-forward layers"):
        ffns(shared)


def test_layers_that_look_at_all_their_neurons_together_are_refused(tmp_path: Path) -> None:
    model = kind("gemma3n")
    assert Neurons.check(tiny_bench(tmp_path, model)) == [48] * 4
    for block in blocks(model):
        block.mlp.activation_sparsity = 0.5  # a cutoff by the mean over all neurons
    with pytest.raises(PlanError, match="look at all their neurons together"):
        Neurons.check(tiny_bench(tmp_path, model))
    for block in blocks(model):
        block.mlp.act_fn = torch.nn.LayerNorm(48)
    with pytest.raises(PlanError, match="look at all their neurons together"):
        Neurons.check(tiny_bench(tmp_path, model))


def test_nothing_to_remove_changes_and_measures_nothing(tmp_path: Path) -> None:
    model = build("llama")
    own, summary = applied(Neurons(0.0), model, [])
    assert summary.effects == () and summary.counts == {"neurons_removed": 0, "neurons": 192}
    assert torch.equal(logits(own, batches("llama")[0]), logits(model, batches("llama")[0]))


# -- statistics ------------------------------------------------------------------------------------


def by_hand(model: PreTrainedModel, number: int, batch: Batch, kept: Tensor) -> Tensor:
    """What goes into the contracting linear at the positions that count."""
    seen: list[Tensor] = []
    handle = ffns(model)[number].contract.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].detach())
    )
    logits(model, batch)
    handle.remove()
    return seen[0].reshape(*kept.shape, -1)[kept]


@pytest.mark.parametrize("name", ["llama", "phi3", "opt", "bert"])
def test_statistics_are_those_of_the_real_positions(name: str) -> None:
    model, batch = model_and_batch(name)
    mask = batch["attention_mask"].clone()
    mask[1, 5:] = 0
    batch = {**batch, "attention_mask": mask}
    stats = Activations.calibrate(model, [batch, batch])
    values = by_hand(model, 2, batch, mask.bool()).abs()
    torch.testing.assert_close(stats["mean.2"], values.mean(0))
    torch.testing.assert_close(stats["max.2"], values.amax(0))
    torch.testing.assert_close(stats["norm.2"], values.square().mean(0).sqrt())
    torch.testing.assert_close(stats["activity.2"], (values.mean(0) >= 1e-6).float())


def test_activity_is_the_share_of_batches() -> None:
    model = fork(kind("opt"))  # relu
    one = ffns(model)[0]
    bias = one.expand[0].bias.detach().clone()
    bias[:3] = -1e6
    put(one.expand[0], "bias", bias)
    stats = Activations.calibrate(model, [batch_of(model)] * 3)
    assert stats["activity.0"][:3].tolist() == [0, 0, 0]
    assert set(stats["activity.0"][3:].tolist()) <= {0.0, 1.0}


def test_prompts_are_left_out_where_the_data_gives_answers() -> None:
    model, batch = model_and_batch("llama")
    labels = batch["labels"].clone()
    labels[:, :7] = IGNORED
    batch = {**batch, "labels": labels}
    assert Neurons(0.1, answers_only=True).calibrator() is AnswerActivations
    stats = AnswerActivations.calibrate(model, [batch])
    values = by_hand(model, 1, batch, labels != IGNORED).abs()
    torch.testing.assert_close(stats["mean.1"], values.mean(0))
    everything = Activations.calibrate(model, [batch])
    assert not torch.allclose(everything["mean.1"], stats["mean.1"])
    with pytest.raises(PlanError, match="all are masked"):
        AnswerActivations.calibrate(model, [{**batch, "labels": torch.full_like(labels, IGNORED)}])


def test_both_stacks_of_an_encoder_decoder_are_measured_without_their_padding() -> None:
    model = tiny("t5", 2)
    batch = batch_for(model)
    stats = Activations.calibrate(model, [batch])
    encoder = by_hand(model, 0, batch, batch["attention_mask"].bool()).abs()
    torch.testing.assert_close(stats["mean.0"], encoder.mean(0))
    assert len(towers(model)) == 2 and stats["mean.3"].shape == (48,)
    short = {**batch, "labels": batch["labels"][:, :4].contiguous()}
    cut = {**batch, "labels": batch["labels"].clone()}
    cut["labels"][:, 4:] = IGNORED
    assert_same = torch.testing.assert_close
    assert_same(Activations.calibrate(model, [short]), Activations.calibrate(model, [cut]))


def test_gradients_are_those_of_the_loss() -> None:
    model, batch = model_and_batch("phi3")
    stats = Gradients.calibrate(model, [batch])
    assert all(p.grad is None for p in model.parameters())
    own = fork(model)
    own(**batch).loss.backward()
    one = ffns(own)[1]
    out = (one.contract.weight * one.contract.weight.grad).abs().sum(0)
    gate, up = (one.expand[0].weight * one.expand[0].weight.grad).abs().sum(1).split(48)
    torch.testing.assert_close(stats["gradient.1"], out + gate + up)
    vit = build("vit")
    with pytest.raises(PlanError, match="the data has no labels"):
        Gradients.calibrate(vit, batches("vit"))


def test_activations_that_are_no_numbers_are_told() -> None:
    model = fork(build("llama"))
    one = ffns(model)[0].expand[0]
    put(one, "weight", torch.full_like(one.weight, float("inf")))
    with pytest.raises(PlanError, match=r"no finite numbers.*float32"):
        Activations.calibrate(model, batches("llama"))


# -- sharing ---------------------------------------------------------------------------------------


def test_a_chain_shares_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def counting(kind: type) -> None:
        inner = kind.calibrate.__func__  # type: ignore[attr-defined]

        def calibrate(cls: type, model: PreTrainedModel, data: object) -> Stats:
            ran.append(kind.__name__)
            found: Stats = inner(cls, model, data)
            return found

        monkeypatch.setattr(kind, "calibrate", classmethod(calibrate))

    counting(Activations)
    counting(Gradients)
    counting(Weights)
    counting(Wanda)
    model = tiny("bert", 4)
    keys = {}
    for score in ("activation", "wanda", "weight", "gradient"):
        for ratio in (0.0, 0.2):
            neurons = Neurons(ratio, score=score)  # type: ignore[arg-type]
            bench = tiny_bench(tmp_path, model)
            do(bench, Omission(skip=(2,)), neurons, Wanda(0.3))
            keys[score, ratio] = bench.lineage.key
            bench.cache.release()
    # one for activation and wanda together, one each for the others, Wanda's for each model before:
    # 4 scores, and the one that nothing was taken from
    assert [ran.count(one) for one in ("Activations", "Gradients", "Weights")] == [1, 1, 1]
    assert len(set(keys.values())) == 5 == ran.count("Wanda")
    naive = tiny_bench(tmp_path, model, naive=True)
    do(naive, Omission(skip=(2,)), Neurons(0.2), Wanda(0.3))
    shared = tiny_bench(tmp_path, model)
    do(shared, Omission(skip=(2,)), Neurons(0.2), Wanda(0.3))
    one, other = (bench.model.state_dict() for bench in (naive, shared))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_uneven_layers_are_retrained_merged_and_omitted(tmp_path: Path) -> None:
    stages = (Neurons(0.3), Recover(epochs=1, batch_size=8, lr=1e-3), Omission(skip=(1,)))
    model = tiny("bert", 4)
    benches = [tiny_bench(tmp_path, model) for _ in range(2)]
    found = [do(bench, *stages, Similarity(threshold=0.0)) for bench in benches]
    assert [one[1].counts["epochs_run"] for one in found] == [1, 0]  # the second shares it
    one, other = (bench.model.state_dict() for bench in benches)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(blocks(benches[0].model)) < 3 and misfits(benches[0].model) != []


def test_the_same_neurons_by_another_way_are_the_same_model(tmp_path: Path) -> None:
    bench, again = (tiny_bench(tmp_path, tiny("bert")) for _ in range(2))
    do(bench, Neurons(0.2, edge_protect=0))
    do(again, Neurons(0.2, edge_protect=1, edge_share=0.0, min_neurons_per_layer=2))
    assert bench.lineage.key == again.lineage.key
    do(masked := tiny_bench(tmp_path, tiny("bert")), Neurons(0.2, edge_protect=0, mode="mask"))
    assert masked.lineage.key != bench.lineage.key


# -- the counts of the specification ---------------------------------------------------------------

GEMMA = {
    "vocab_size": 262_144,
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
ROWS = [  # prune_ratio, neurons removed, parameters left
    (0.05, 7_905, 972_566_272),
    (0.10, 15_897, 944_945_920),
    (0.15, 24_538, 915_082_624),
    (0.20, 33_178, 885_222_784),
    (0.25, 41_818, 855_362_944),
    (0.30, 50_457, 825_506_560),
]


@pytest.fixture(scope="module")
def gemma() -> PreTrainedModel:
    with torch.device("meta"):
        return Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA))


@pytest.mark.parametrize(("ratio", "removed", "parameters"), ROWS)
def test_published_counts_of_gemma_3_1b(
    gemma: PreTrainedModel,
    ratio: float,
    removed: int,
    parameters: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def early_lowest(self: Neurons, model: PreTrainedModel, stats: Stats) -> list[Tensor]:
        steps = torch.arange(6912, dtype=torch.float64) / 6912
        scores = [steps + layer for layer in range(26)]
        if ratio == 0.05:  # where the edges' share hangs on the data: they give 1,080 each
            for layer in (0, 1):
                scores[layer][1080:] += 100
        return scores

    assert count_parameters(gemma) == 999_885_952
    assert sum(one.width for one in ffns(gemma)) == 179_712
    monkeypatch.setattr(method_module.Neurons, "scores", early_lowest)
    own = fork(gemma)
    summary = Neurons(ratio, ratio + 0.2, 400).apply(own, {})
    assert summary.counts == {"neurons_removed": removed, "neurons": 179_712 - removed}
    assert count_parameters(own) == parameters == 999_885_952 - 3 * 1152 * removed
