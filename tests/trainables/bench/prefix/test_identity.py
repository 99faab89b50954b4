"""Names of what is computed: the same exactly where two models agree."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tests.support.families import build, kind
from trainables.bench.models.structure import blocks
from trainables.bench.prefix.identity import Base, content, prefixes
from trainables.core.fork import fork, put
from trainables.neurons.calibrate import Weights
from trainables.neurons.method import Neurons
from trainables.omission.method import Omission

SINGLE = ["llama", "qwen2", "gemma3_text", "gpt2", "bert", "roberta", "distilbert", "vit"]


def agree(model: PreTrainedModel, other: PreTrainedModel, *, lineage: str = "other") -> int:
    """How many names two models have in common, from the first on."""
    base = Base(model, "base")
    pairs = zip(prefixes(model, base, "base"), prefixes(other, base, lineage), strict=False)
    same = [one == two for one, two in pairs]
    assert same == sorted(same, reverse=True), "agreeing again after a difference"
    return sum(same)


@pytest.mark.parametrize("name", SINGLE)
def test_a_fork_is_its_base(name: str) -> None:
    model = build(name)
    assert agree(model, fork(model)) == len(blocks(model)) + 1


KINDS = ["bart_decoder", "beit", "deberta_v2", "diffllama", "esm", "longformer"]
KINDS += ["opt", "phi3", "smollm3"]


@pytest.mark.parametrize("name", KINDS)
def test_all_that_families_are_made_of_is_known(name: str) -> None:
    model = kind(name)
    assert agree(model, fork(model)) == len(blocks(model)) + 1


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("gone", [(1,), (2, 3), (3,)])
def test_without_some_blocks_it_agrees_up_to_the_first(name: str, gone: tuple[int, ...]) -> None:
    model = build(name)
    other = fork(model)
    Omission(gone).apply(other, {})
    assert agree(model, other) == gone[0] + 1


def test_two_sets_agree_up_to_where_they_part() -> None:
    model, found = build("llama"), []
    base = Base(model, "base")
    for gone in ((1, 3), (1, 2)):
        other = fork(model)
        Omission(gone).apply(other, {})
        found.append(prefixes(other, base, str(gone)))
    assert found[0][:2] == found[1][:2] and found[0][2] != found[1][2]


def test_a_silent_part_counts_as_a_difference() -> None:
    model = build("llama")
    other = fork(model)
    Omission(attention=(2,)).apply(other, {})
    assert agree(model, other) == 3


def test_fewer_neurons_count_whatever_the_config_says_of_them() -> None:
    model = build("llama")
    other = fork(model)
    rule = Neurons(0.2, score="weight", edge_protect=1, edge_share=1.0)
    rule.apply(other, Weights.calibrate(other, []))
    assert agree(model, other) == 2  # the first block is protected
    uniform = fork(model)
    Neurons(0.2, score="weight", uniform=True, edge_protect=0).apply(
        uniform, Weights.calibrate(uniform, [])
    )
    assert uniform.config.intermediate_size != model.config.intermediate_size
    assert agree(model, uniform) == 1


def test_equal_weights_made_twice_are_one() -> None:
    model, found = build("llama"), []
    base = Base(model, "base")
    for lineage in ("one", "two"):
        other = fork(model)
        layer = blocks(other)[1].mlp.up_proj  # type: ignore[union-attr]
        put(layer, "weight", layer.weight.detach() * 2)  # type: ignore[arg-type, operator]
        found.append(prefixes(other, base, lineage))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: put(model.model.embed_tokens, "weight", model.model.embed_tokens.weight * 2),
        lambda model: setattr(model.config, "rms_norm_eps", 0.5),
        lambda model: setattr(model.config, "_attn_implementation", "eager"),
        lambda model: model.model.embed_tokens.register_forward_hook(lambda *_: None),
    ],
)
def test_what_stands_before_the_blocks_counts_for_all(change: object) -> None:
    model = build("llama")
    other = fork(model)
    assert callable(change)
    change(other)
    assert agree(model, other) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda block: setattr(block.self_attn, "scaling", 0.1),
        lambda block: setattr(block.self_attn, "made_up", object()),
        lambda block: setattr(block.mlp, "act_fn", nn.GELU()),
        lambda block: block.mlp.register_forward_hook(lambda *_: None),
        lambda block: block.train(),
    ],
)
def test_everything_in_a_block_counts(change: object) -> None:
    model = build("llama")
    other = fork(model)
    assert callable(change)
    change(blocks(other)[2])
    assert agree(model, other) == 3


def test_what_cannot_be_told_apart_is_told_by_its_lineage() -> None:
    model, found = build("llama"), []
    base = Base(model, "base")
    for lineage in ("one", "two", "one"):
        other = fork(model)
        blocks(other)[1].made_up = object()  # type: ignore[assignment]
        found.append(prefixes(other, base, lineage))
    assert found[0] == found[2] and found[0][:2] == found[1][:2] and found[0][2] != found[1][2]


def test_contents_differ_where_a_bit_does() -> None:
    one = torch.zeros(1000)
    other = one.clone()
    other[-1] = -0.0
    assert content(one) == content(one.clone()) != content(other)
