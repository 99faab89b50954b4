"""A model and its rows: how many go through it together, where a study leaves that open."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.families import FAMILIES
from tests.support.toys import bytes_tokenizer, jsonl
from trainables.bench import opening
from trainables.bench.bench import Bench
from trainables.core.spec import AUTO, BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.trial import open_bench

ITEMS = ItemCounts(calibration=20, train=1, search=40, held_out=1)


def opened(folder: Path, size: int | str) -> Bench:
    """A language model that reads questions of three choices."""
    model = FAMILIES["llama"]()
    model.resize_token_embeddings(len(bytes_tokenizer()))
    model.save_pretrained(folder / "model")
    bytes_tokenizer().save_pretrained(folder / "model")
    rows: list[dict[str, Any]] = [
        {"prompt": f"{i} and {i}?", "choices": [f"{2 * i}", f"{i}", f"{3 * i}"], "answer": 0}
        for i in range(1, 90)
    ]
    data = DataSpec.model_validate(
        {
            "dataset": jsonl(folder / "rows.jsonl", rows),
            "task": "multiple-choice",
            "items": ITEMS,
            "max_length": 32,
            "batch_size": size,
        }
    )
    model_spec, cache = ModelSpec(id=str(folder / "model")), str(folder / "cache")
    return open_bench(BenchSpec(model=model_spec, data=data, objectives=("loss",), cache=cache))


def test_on_a_cpu_as_many_as_by_default(tmp_path: Path) -> None:
    auto = opened(tmp_path, "auto")
    assert auto.spec.data.batch_size == AUTO
    assert auto.data.batch_size == DataSpec(dataset="x", task="classification").batch_size
    assert auto.data.description["batch size"] == 8  # and so in every record


def test_on_a_card_as_many_as_fit_and_all_models_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = opened(tmp_path, "auto")
    monkeypatch.setattr(opening, "room_on", lambda device: 1e12)
    data: Any = bench.data
    before = data.fingerprint("search")
    size = opening._fitting(bench.spec, data, bench.model.config, torch.device("cpu"))
    assert size == 32  # of 40 items at most
    data.resize(size)
    assert [len(items) for items in data.by_batch("search")] == [32, 8]
    assert len(data.batches("search")[0]["input_ids"]) == 3 * 32
    assert data.fingerprint("search") != before  # results know with how many
    assert bench.open(ModelSpec(id=str(tmp_path / "model"))).reading.data.batch_size == 32
