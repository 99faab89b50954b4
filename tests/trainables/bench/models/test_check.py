"""What a model cannot do is known before anything is measured, and told by the model's type."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.families import FAMILIES, GROUPED, KINDS, batch_of, build, kind
from tests.support.same import same_tensors
from tests.support.toys import bytes_tokenizer
from trainables.bench.models.check import check_model
from trainables.bench.models.structure import blocks, family, stacks
from trainables.bench.models.surgery import remove_blocks
from trainables.core.errors import ModelError, UserError
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec, Task
from trainables.trial import open_bench

REFUSED = {
    "bert_causal": "bert .*in both directions",
    "deepseek_v3": r"deepseek_v3.*experts are fused: layers\.1\.mlp\.experts",
    "diffllama": "diffllama.*lambda_init",
    "esm": "esm.*contact_head",
    "gemma3n": "gemma3n_text",
    "led": "led.*no family",
    "mixtral": "mixtral.*experts are fused",
    "qwen3_moe": "qwen3_moe.*experts are fused",
}
ROWS = {"bart": "bart", "bart_classifier": "bart", "bart_decoder": "bart-decoder", "mbart": "bart"}
ROWS |= {"marian": "bart", "pegasus": "bart", "convnext": "resnet", "umt5": "t5-gated"}


def task_of(name: str) -> Task:
    head = type(kind(name)).__name__
    tasks: dict[str, Task] = {"CausalLM": "language-modelling", "LMHeadModel": "language-modelling"}
    tasks |= {
        "SequenceClassification": "classification",
        "ImageClassification": "image-classification",
    }
    return next((task for end, task in tasks.items() if head.endswith(end)), "generation")


@pytest.mark.parametrize("name", sorted(set(KINDS) - set(REFUSED)))
def test_a_model_that_can_spare_blocks_passes(name: str) -> None:
    model, same = kind(name), kind(name)
    check_model(model, batch_of(model), task_of(name))
    assert same_tensors(model, same) and len(blocks(model)) == len(blocks(same))
    assert family(model).name == ROWS.get(name, family(model).name)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_so_do_the_families_of_the_contract(name: str) -> None:
    model = build(name)
    before = model.config.to_dict()
    check_model(model, batch_of(model), "classification")
    assert model.config.to_dict() == before


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_others_are_refused_by_their_type(name: str) -> None:
    model = kind(name)
    with pytest.raises(UserError, match=REFUSED[name]):
        check_model(model, batch_of(model), task_of(name))


@pytest.mark.parametrize("name", ["bart", "marian", "pegasus"])
def test_an_encoder_decoder_has_two_stacks(name: str) -> None:
    model = kind(name)
    assert [len(stack.blocks) for stack in stacks(model)] == [3, 4]
    remove_blocks(model, {0, 4, 5})
    assert (model.config.encoder_layers, model.config.decoder_layers) == (2, 2)


@pytest.mark.parametrize(
    ("name", "field", "left"),
    [("smollm3", "no_rope_layers", [1, 1, 0]), ("longformer", "attention_window", [4, 4, 4])],
)
def test_config_lists_with_an_entry_per_block_are_cut(
    name: str, field: str, left: list[int]
) -> None:
    model = kind(name)
    assert len(getattr(model.config, field)) == 4
    remove_blocks(model, {1})
    assert getattr(model.config, field) == left


def test_token_ids_are_no_entries_of_blocks() -> None:
    model = build("llama")
    model.config.eos_token_id = [2, 3, 4, 5]
    remove_blocks(model, {1})
    assert model.config.eos_token_id == [2, 3, 4, 5]


def test_a_stage_keeps_a_block() -> None:
    with pytest.raises(UserError, match="opens a stage"):
        remove_blocks(kind("convnext"), {2})


def test_a_model_that_gives_no_numbers_is_told() -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"llama.*finite"):
        check_model(model, batch_of(model), "language-modelling")


class Numbered(LlamaForCausalLM):
    """Its blocks are the louder the later they come, which no setting of theirs says."""

    def forward(self, *given: Any, **named: Any) -> Any:
        hooks = [
            block.register_forward_hook(lambda _, __, out, loud=1 + number / 2: out * loud)
            for number, block in enumerate(self.model.layers)
        ]
        try:
            return super().forward(*given, **named)
        finally:
            for hook in hooks:
                hook.remove()


def test_blocks_that_go_by_their_number_are_found_by_what_they_say() -> None:
    model = Numbered(LlamaConfig(**GROUPED)).eval()
    with pytest.raises(ModelError, match=r"llama \(Numbered\).*they depend on their number"):
        check_model(model, batch_of(model), "language-modelling")


class Forgetful(LlamaForCausalLM):
    """Leaves a weight out of what it saves."""

    _keys_to_ignore_on_save = ("lm_head.weight",)


def test_a_model_that_comes_back_as_another_is_refused() -> None:
    model = Forgetful(LlamaConfig(**GROUPED)).eval()
    with pytest.raises(ModelError, match=r"llama \(Forgetful\).*reloaded it is another model"):
        check_model(model, batch_of(model), "language-modelling")


def test_a_bench_of_such_a_model_does_not_open(tmp_path: Path) -> None:
    model = kind("diffllama")
    model.resize_token_embeddings(len(bytes_tokenizer()))
    model.save_pretrained(tmp_path / "model")
    bytes_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(f"line {n} of a text" for n in range(40)))
    items = ItemCounts(calibration=2, train=1, search=2, held_out=1)
    data = DataSpec(
        dataset=str(tmp_path / "text.txt"),
        task="language-modelling",
        items=items,
        max_length=16,
        batch_size=2,
    )
    spec = BenchSpec(
        model=ModelSpec(id=str(tmp_path / "model")),
        data=data,
        objectives=("perplexity",),
        cache=str(tmp_path / "cache"),
    )
    with pytest.raises(ModelError, match="model type diffllama"):
        open_bench(spec)
