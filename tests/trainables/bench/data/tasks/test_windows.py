"""Running text as published perplexities read it."""

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.toys import bench, bytes_tokenizer, jsonl
from trainables.bench.data.roles import Data, load_data
from trainables.bench.metrics.evaluate import measure_all
from trainables.core.spec import DataSpec

LENGTH = 16
TEXTS = [" = Robert = \n", "", "The same line.\n", "The same line.\n", "", " He said so . \n"] * 9


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def joined(folder: Path, tokenizer: PreTrainedTokenizerFast, **fields: Any) -> Data:
    for name in ("train", "test"):
        jsonl(folder / f"{name}.jsonl", [{"text": text} for text in TEXTS])
    given = {
        "dataset": str(folder),
        "task": "language-modelling",
        "windows": "joined",
        "splits": {"search": "test"},
        "items": {"calibration": 2, "train": 3, "search": 999, "held_out": 2},
        "max_length": LENGTH,
        "batch_size": 4,
    }
    return load_data(DataSpec.model_validate(given | fields), tokenizer, 0)


def usual_script(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Perplexity as the scripts around WikiText-2 compute it, in double precision."""
    ids = tokenizer("\n\n".join(TEXTS), return_tensors="pt").input_ids
    count = ids.numel() // LENGTH
    losses = []
    for index in range(count):
        window = ids[:, index * LENGTH : (index + 1) * LENGTH]
        with torch.no_grad():
            logits = model(window).logits
        loss = torch.nn.CrossEntropyLoss()(logits[0, :-1].double(), window[0, 1:])
        losses.append(loss * LENGTH)
    return math.exp(torch.stack(losses).sum() / (count * LENGTH))


@pytest.mark.parametrize("bos", [False, True])
def test_perplexity_of_joined_windows_is_that_of_the_usual_script(
    tmp_path: Path, bos: bool
) -> None:
    tokenizer = bytes_tokenizer(bos)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    data = joined(tmp_path, tokenizer)
    ours = measure_all(bench(model, data, tokenizer), ["perplexity"], "search")["perplexity"]
    assert math.isclose(ours, usual_script(model, tokenizer), rel_tol=1e-6)


def test_joined_windows_hold_every_token_of_the_split_once(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer(bos=True)
    data = joined(tmp_path, tokenizer)
    read = [number for item in data.items("search") for number in item.ids]
    whole = tokenizer("\n\n".join(TEXTS)).input_ids
    assert read == whole[: len(read)] and len(whole) - len(read) < LENGTH
    assert read.count(1) == 1
    assert "as published" in data.description["windows"]


def test_roles_of_one_split_take_windows_in_turn(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    data = joined(tmp_path, tokenizer)
    roles = ("held_out", "calibration", "train")
    read = [number for role in roles for item in data.items(role) for number in item.ids]
    assert read == tokenizer("\n\n".join(TEXTS)).input_ids[: 7 * LENGTH]


def test_a_file_of_running_text_is_joined_as_it_is(tmp_path: Path) -> None:
    text = "".join(TEXTS) * 3
    (tmp_path / "o.txt").write_text(text)
    given = {
        "dataset": str(tmp_path / "o.txt"),
        "task": "language-modelling",
        "windows": "joined",
        "items": {"calibration": 2, "train": 3, "search": 5, "held_out": 4},
        "max_length": LENGTH,
    }
    data = load_data(DataSpec.model_validate(given), bytes_tokenizer(), 0)
    read = [number for item in data.items("held_out") for number in item.ids]
    assert bytes_tokenizer().decode(read) == text[: 4 * LENGTH]
