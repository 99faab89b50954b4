"""What a model cannot take is refused before anything is measured."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.support.toys import bytes_tokenizer, jsonl, word_tokenizer
from trainables.bench.data.fits import check_fits, positions
from trainables.bench.data.roles import Data, load_data
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec
from trainables.core.types import IGNORED

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2}
BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
OPT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "ffn_dim": 16,
    "word_embed_proj_dim": 16,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def model(kind: str, head: Any, **fields: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **{"vocab_size": 300, **fields})
    made: PreTrainedModel = head.from_config(config)
    return made


def data(
    folder: Path, task: str, tokenizer: PreTrainedTokenizerFast, apart: bool = False, **fields: Any
) -> Data:
    rows = [
        {"text": f"cat {i}", "label": i % 2, "source": f"cat {i}", "target": f"mat {i} sat"}
        for i in range(60)
    ]
    given = {
        "dataset": jsonl(folder / "o.jsonl", rows),
        "task": task,
        "items": {"calibration": 2, "train": 3, "search": 2, "held_out": 2},
        **fields,
    }
    return load_data(DataSpec.model_validate(given), tokenizer, 0, encoder_decoder=apart)


POSITIONS: list[tuple[str, Any, dict[str, Any], int | None]] = [
    ("gpt2", AutoModelForCausalLM, {**GPT2, "n_positions": 20}, 20),
    ("opt", AutoModelForCausalLM, {**OPT, "max_position_embeddings": 20}, 20),
    ("llama", AutoModelForCausalLM, {**SMALL, "max_position_embeddings": 20}, 20),
    ("bert", AutoModelForSequenceClassification, {**SMALL, "max_position_embeddings": 20}, 20),
    (
        "roberta",
        AutoModelForSequenceClassification,
        {**SMALL, "max_position_embeddings": 20, "pad_token_id": 1},
        18,
    ),
    ("bart", AutoModelForSeq2SeqLM, {**BART, "max_position_embeddings": 20}, 20),
    ("t5", AutoModelForSeq2SeqLM, T5, None),
]


@pytest.mark.parametrize(("kind", "head", "fields", "wanted"), POSITIONS)
def test_a_models_positions_are_known(
    kind: str, head: Any, fields: dict[str, Any], wanted: int | None
) -> None:
    assert positions(model(kind, head, **fields)) == wanted


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    made = model("roberta", AutoModelForSequenceClassification, **POSITIONS[4][2])
    check_fits(data(tmp_path, "classification", word_tokenizer(), max_length=18), made)
    with pytest.raises(DataError, match=r"max_length = 19: the model has 18 positions"):
        check_fits(data(tmp_path, "classification", word_tokenizer(), max_length=19), made)


def test_what_a_decoder_writes_needs_positions_too(tmp_path: Path) -> None:
    made = model("gpt2", AutoModelForCausalLM, **GPT2, n_positions=20)
    check_fits(data(tmp_path, "generation", bytes_tokenizer(), max_length=20), made)
    short = data(tmp_path, "generation", bytes_tokenizer(), max_length=11)
    most = max(int((b["labels"] != IGNORED).sum(1).max()) for b in short.batches("search"))
    assert most <= 11
    made = model("gpt2", AutoModelForCausalLM, **GPT2, n_positions=11)
    with pytest.raises(
        DataError, match=r"targets of up to \d+ tokens to be written: the model has 11 pos"
    ):
        check_fits(short, made)


@pytest.mark.parametrize("apart", [False, True])
def test_targets_are_cut(tmp_path: Path, apart: bool) -> None:
    rows = [{"source": f"a {i}", "target": "long " * 30} for i in range(40)]
    path = jsonl(tmp_path / "g.jsonl", rows)
    given = {
        "dataset": path,
        "task": "generation",
        "max_length": 12,
        "items": {"calibration": 2, "train": 3, "search": 2, "held_out": 2},
    }
    found = load_data(DataSpec.model_validate(given), bytes_tokenizer(), 0, encoder_decoder=apart)
    for batch in found.batches("search"):
        assert batch["labels"].shape[1] <= 12 and batch["input_ids"].shape[1] <= 12
        assert int((batch["labels"] != IGNORED).sum(1).min()) >= 6


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    found = data(tmp_path, "classification", word_tokenizer())
    found.batches("search")
    small = model("bert", AutoModelForSequenceClassification, **SMALL, max_position_embeddings=512)
    check_fits(found, small)
    smaller = model(
        "bert",
        AutoModelForSequenceClassification,
        **{**SMALL, "vocab_size": 3},
        max_position_embeddings=512,
    )
    with pytest.raises(DataError, match=r"gives token \d+, and the model has 3; "):
        check_fits(found, smaller)


def test_batches_made_later_are_held_to_the_embedding_too(tmp_path: Path) -> None:
    found = data(tmp_path, "classification", word_tokenizer())
    found._batches.clear()
    smaller = model(
        "bert",
        AutoModelForSequenceClassification,
        **{**SMALL, "vocab_size": 3},
        max_position_embeddings=512,
    )
    check_fits(found, smaller)
    with pytest.raises(DataError, match="and the model has 3"):
        found.batches("train")


def test_a_decoder_apart_needs_positions_for_targets(tmp_path: Path) -> None:
    fields = {"vocab_size": 300, **BART, "encoder_layers": 1, "attention_window": 4}
    config = AutoConfig.for_model(
        "led", **fields, max_encoder_position_embeddings=64, max_decoder_position_embeddings=8
    )
    made = AutoModelForSeq2SeqLM.from_config(config)
    found = data(tmp_path, "generation", bytes_tokenizer(), apart=True, max_length=40)
    with pytest.raises(
        DataError, match=r"targets of up to \d+ tokens .*: the model has 8 positions"
    ):
        check_fits(found, made)
    with pytest.raises(DataError, match=r"max_length = 65: the model has 64 positions"):
        check_fits(data(tmp_path, "generation", bytes_tokenizer(), True, max_length=65), made)
