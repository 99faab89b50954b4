"""Finding blocks by structure, and taking them out so that config and weights agree."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from tests.support.families import COMMON, FAMILIES, GROUPED, build, kind
from trainables.bench.models.structure import (
    blocks,
    family,
    fixed_blocks,
    has,
    linears,
    reach,
    rows,
    stacks,
    unrows,
)
from trainables.bench.models.surgery import remove_blocks
from trainables.core.errors import PlanError
from trainables.core.fork import fork

ROWS = {
    "llama": "llama",
    "qwen2": "llama",
    "gemma3_text": "llama",
    "gpt2": "gpt2",
    "bert": "bert",
    "roberta": "bert",
    "distilbert": "distilbert",
    "t5": "t5",
    "vit": "vit",
    "resnet": "resnet",
}
DEPTHS = {"t5": [3, 3], "resnet": [2, 3]}
# Blocks that must stay: T5's first of each stack owns the bias, ResNet's first of a stage reshapes.
FIXED = {"t5": {0, 3}, "resnet": {0, 2}}


def mamba() -> PreTrainedModel:
    config = MambaConfig(vocab_size=50, hidden_size=8, state_size=4, num_hidden_layers=2)
    return MambaForCausalLM(config)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_found_by_its_structure(name: str) -> None:
    model = build(name)
    assert family(model).name == ROWS[name]
    assert [len(stack.blocks) for stack in stacks(model)] == DEPTHS.get(name, [4])
    assert fixed_blocks(model) == FIXED.get(name, set())


def test_a_bias_that_every_block_has_keeps_none() -> None:
    """T5's, of which a stack has one, keeps the block that owns it."""
    assert fixed_blocks(kind("umt5")) == set()
    assert fixed_blocks(build("t5")) == {0, 3}


@pytest.mark.parametrize("function", [family, stacks, blocks, linears])
def test_an_unknown_structure_names_the_model(
    function: Callable[[PreTrainedModel], object],
) -> None:
    with pytest.raises(PlanError) as error:
        function(mamba())
    for part in ("MambaForCausalLM (mamba)", "known are", "llama", "resnet"):
        assert part in str(error.value)


def test_a_row_covers_all_lists_of_blocks() -> None:
    model = build("llama")
    model.model.more = nn.ModuleList(fork(model).model.layers)
    with pytest.raises(PlanError, match="no family"):
        family(model)


def test_an_encoder_decoder_is_of_no_family_of_one_stack() -> None:
    model = build("llama")
    model.config.is_encoder_decoder = True
    with pytest.raises(PlanError, match="no family"):
        family(model)


def test_blocks_are_numbered_through_all_stacks() -> None:
    model = build("t5")
    encoder, decoder = stacks(model)
    assert (encoder.first, decoder.first) == (0, 3)
    assert blocks(model) == [*model.encoder.block, *model.decoder.block]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_row_names_is_in_every_block(name: str) -> None:
    model = build(name)
    row = family(model)
    for block in blocks(model):
        for path in (row.attention, row.attention_out, row.ffn, row.contract, *row.expand):
            assert has(block, path)


# -- removing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "which", "field", "depth"),
    [
        ("llama", {1}, "num_hidden_layers", 3),
        ("gpt2", {0, 3}, "n_layer", 2),
        ("distilbert", {2}, "n_layers", 3),
        ("t5", {1}, "num_layers", 2),
        ("t5", {1, 4, 5}, "num_decoder_layers", 1),
        ("resnet", {1, 3}, "depths", [1, 2]),
    ],
)
def test_the_config_counts_what_is_left(
    name: str, which: set[int], field: str, depth: int | list[int]
) -> None:
    model = build(name)
    kept = [block for number, block in enumerate(blocks(model)) if number not in which]
    remove_blocks(model, which)
    assert blocks(model) == kept
    assert getattr(model.config, field) == depth


def test_layer_numbers_close_up() -> None:
    model = build("llama")
    remove_blocks(model, {0, 2})
    assert [block.get_submodule("self_attn").layer_idx for block in blocks(model)] == [0, 1]


def test_each_block_keeps_its_own_kind_of_attention() -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=4, layer_types=kinds)
    model = Gemma3ForCausalLM(config).eval()
    remove_blocks(model, {1})
    assert model.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]


def test_a_fork_has_a_config_of_its_own() -> None:
    model = build("gemma3_text")
    remove_blocks(fork(model), {1, 2})
    assert model.config.num_hidden_layers == len(model.config.layer_types) == 4
    assert len(blocks(model)) == 4


@pytest.mark.parametrize(
    ("name", "which", "message"),
    [
        ("llama", {4}, r"no block \[4\]: the model has blocks 0 to 3"),
        ("llama", {-1}, r"no block \[-1\]"),
        ("llama", {0, 1, 2, 3}, "all 4 blocks of layers would go; at least one must stay"),
        ("t5", {0}, r"block \[0\] cannot be removed"),
        ("t5", {2, 3}, r"block \[3\] cannot be removed"),
        ("resnet", {2}, r"block \[2\] cannot be removed"),
    ],
)
def test_what_cannot_be_removed_is_refused_and_nothing_changed(
    name: str, which: set[int], message: str
) -> None:
    model = build(name)
    before, config = blocks(model), model.config.to_dict()
    with pytest.raises(PlanError, match=message):
        remove_blocks(model, which)
    assert blocks(model) == before
    assert model.config.to_dict() == config


def test_a_model_that_ties_blocks_to_their_numbers_is_refused() -> None:
    config = GPT2Config(
        vocab_size=50, n_embd=8, n_layer=3, n_head=2, scale_attn_by_inverse_layer_idx=True
    )
    with pytest.raises(PlanError, match="ties each block to its number"):
        remove_blocks(GPT2LMHeadModel(config), {1})


# -- linears -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_linears_are_inside_blocks_and_never_embeddings_or_heads(name: str) -> None:
    model = build(name)
    inside = {module for block in blocks(model) for module in block.modules()}
    found = linears(model)
    assert found
    assert all(layer in inside for layer in found.values())
    assert model.get_output_embeddings() not in found.values()
    assert all(model.get_submodule(path) is layer for path, layer in found.items())


@pytest.mark.parametrize("name", ["llama", "gpt2", "resnet"])
def test_rows_are_outputs_by_inputs_however_the_layer_stores_them(name: str) -> None:
    for layer in linears(build(name)).values():
        weight = rows(layer)
        outputs = layer.weight.shape[1] if name == "gpt2" else layer.weight.shape[0]
        assert weight.dim() == 2
        assert weight.shape[0] == outputs
        assert torch.equal(unrows(layer, weight), layer.weight)


def test_paths_count_from_the_end_too() -> None:
    root = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    assert reach(root, "-1") is root[1]
    assert reach(root, "") is root
    assert has(root, "0") and not has(root, "2") and not has(root, "0.bias.x")


def test_a_base_model_without_a_head_is_a_model_too() -> None:
    model = LlamaForCausalLM(LlamaConfig(**COMMON)).model
    remove_blocks(model, {1})
    assert len(blocks(model)) == model.config.num_hidden_layers == 3
