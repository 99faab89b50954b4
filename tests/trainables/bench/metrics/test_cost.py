"""Sizes are exact, against files really written; times and memory behave."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from trainables.bench.metrics import cost as measure
from trainables.bench.models.surgery import remove_blocks
from trainables.core.fork import fork, own
from trainables.core.types import Batch

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def llama(tied: bool = False, **fields: Any) -> PreTrainedModel:
    config = LlamaConfig(
        **{"vocab_size": 61, "num_hidden_layers": 12, **_SIZES, **fields}, tie_word_embeddings=tied
    )
    return LlamaForCausalLM(config)


def t5() -> PreTrainedModel:
    sizes = {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 48, "num_layers": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=60, decoder_start_token_id=0, **sizes))


def mixtral() -> PreTrainedModel:
    sizes = {**_SIZES, "num_key_value_heads": 2, "num_local_experts": 3}
    return MixtralForCausalLM(MixtralConfig(vocab_size=60, num_hidden_layers=2, **sizes))


MODELS = {
    "llama": llama,
    "tied llama": lambda: llama(tied=True),
    "half llama": lambda: llama(tied=True).half(),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_head=2, n_layer=2)),
    "bert": lambda: BertForSequenceClassification(
        BertConfig(vocab_size=60, num_hidden_layers=2, **_SIZES)
    ),
    "t5": t5,
    "mixtral": mixtral,
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_bytes_are_those_of_the_file_that_is_written(tmp_path: Path, name: str) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    assert measure.saved_bytes(model) == (tmp_path / "model.safetensors").stat().st_size


def test_bytes_of_a_pruned_fork(tmp_path: Path) -> None:
    whole = llama(tied=True)
    pruned = fork(whole)
    remove_blocks(pruned, {1, 5, 10})
    pruned.save_pretrained(tmp_path)
    assert measure.saved_bytes(pruned) == (tmp_path / "model.safetensors").stat().st_size
    assert measure.saved_bytes(pruned) < measure.saved_bytes(whole)


def test_bytes_of_loose_tensors_of_many_kinds(tmp_path: Path) -> None:
    kinds = [kind for kind in measure._DTYPES if not kind.is_complex]
    tensors = {f"näme {i}": torch.ones(i + 1, 3).to(kind) for i, kind in enumerate(kinds)}
    tensors["empty"] = torch.ones(0, 4)
    save_file(tensors, tmp_path / "t.safetensors", {"format": "pt"})
    assert measure.file_bytes(tensors) == (tmp_path / "t.safetensors").stat().st_size


def test_bytes_of_a_module_that_is_no_pretrained_model() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert measure.saved_bytes(tied) == measure.file_bytes({"0.weight": torch.ones(4, 4)})


def test_tied_weights_count_once() -> None:
    assert measure.count_parameters(llama(tied=True)) == llama(tied=True).num_parameters()
    assert measure.count_parameters(llama()) == measure.count_parameters(llama(tied=True)) + 61 * 32
    shared = llama(tied=True)
    shared.lm_head.weight = nn.Parameter(shared.model.embed_tokens.weight.data)
    assert measure.count_parameters(shared) == measure.count_parameters(llama(tied=True))


def test_zeros_are_not_counted() -> None:
    model = llama(tied=True)
    whole = measure.count_nonzero(model)
    weight = model.model.layers[3].mlp.up_proj.weight
    with torch.no_grad():
        weight[:, ::2] = 0
    assert whole - measure.count_nonzero(model) == weight.numel() // 2
    assert measure.count_parameters(model) == measure.count_parameters(llama(tied=True))


def test_parameters_are_counted_without_memory() -> None:
    with torch.device("meta"):
        model = llama(tied=True)
    assert measure.count_parameters(model) == measure.count_parameters(llama(tied=True))


def text(length: int = 16, rows: int = 4) -> Batch:
    ids = torch.randint(3, 60, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}


def test_the_pace_is_a_median_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clock = llama().eval(), iter([0.0, 9.0, *(t for i in range(9) for t in (i, i + 1.0))])
    calls: list[Batch] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    found = measure.pace(model, text())
    assert found == measure.Pace(seconds=1.0, tokens=4 * 16 - 8)
    assert len(calls) == 1 + 3 and all("labels" not in call for call in calls)


def test_more_work_takes_longer() -> None:
    small, large = (
        measure.pace(llama(num_hidden_layers=depth).eval(), text(64, 8)) for depth in (1, 12)
    )
    assert small.seconds < large.seconds


def test_an_encoder_decoder_keeps_its_labels() -> None:
    assert measure.pace(t5().eval(), text()).seconds > 0


def test_peak_memory_grows_with_the_batch() -> None:
    model = llama(vocab_size=5000).eval()
    small, large = (measure.peak_memory(model, text(64, rows)) for rows in (8, 64))
    logits = 64 * 64 * 5000 * 4
    assert large > small + logits // 2


def test_peak_memory_is_the_same_however_often_it_is_taken() -> None:
    model, batch = llama(vocab_size=500).eval(), text(32, 4)
    assert len({measure.peak_memory(model, batch) for _ in range(4)}) == 1


def test_peak_memory_counts_what_lives_at_one_time() -> None:
    class Chain(nn.Module):
        device, dtype, config = torch.device("cpu"), torch.float32, BertConfig()
        main_input_name = "x"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(5):
                x = x + 1  # the one before goes
            return x.view(-1).mul_(2)

    assert measure.peak_memory(Chain(), {"x": torch.zeros(1000)}) == 2 * 4000


def test_what_else_is_loaded_is_no_part_of_a_models_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, resident = llama(tied=True).eval(), 7_000_000  # as a base model beside its fork
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: resident)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: resident + 500)
    assert measure._allocated(model, lambda: model(**measure.ready(model, text()))) == 500
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert measure.own_bytes(model) == 4 * measure.count_parameters(model) + buffers


def test_what_does_not_learn_can_be_left_out() -> None:
    model = llama()
    model.model.layers[0].requires_grad_(False)
    frozen = sum(p.numel() for p in model.model.layers[0].parameters())
    whole = measure.count_parameters(model)
    assert measure.count_parameters(model, learning=True) == whole - frozen


@pytest.mark.gpu
def test_peak_memory_on_a_gpu_holds_weights_and_activations() -> None:
    model = llama(vocab_size=5000).cuda().eval()
    weights = measure.own_bytes(model)
    alone = measure.peak_memory(model, text(64, 8))
    beside = fork(model)
    own(beside)
    assert measure.peak_memory(model, text(64, 8)) == alone
    assert measure.peak_memory(model, text(64, 8)) > weights + 8 * 64 * 5000 * 4
    assert measure.pace(model, text(64, 8)).seconds > 0
