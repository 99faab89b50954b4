"""Opening data sets: which rows are read, from files, folders and streams."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.toys import jsonl
from trainables.bench.data import sources
from trainables.bench.data.sources import open_splits
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def spec(dataset: Path | str, **fields: Any) -> DataSpec:
    given = {"dataset": str(dataset), "task": "classification", **fields}
    return DataSpec.model_validate(given)


def sorted_by_class(count: int = 300, classes: int = 3) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": f"c{i * classes // count}"} for i in range(count)]


def test_some_rows_of_data_sorted_by_class_are_of_all_classes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", sorted_by_class())
    found = open_splits(spec(path, rows=60))["train"]
    assert len(found) == 60
    assert min(Counter(found["label"]).values()) > 10 and len(set(found["label"])) == 3
    again = open_splits(spec(path, rows=60))["train"]
    assert again["text"][:] == found["text"][:]
    assert len(open_splits(spec(path, rows=999))["train"]) == 300


def test_running_text_that_is_joined_keeps_its_beginning(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "o.jsonl", sorted_by_class())
    fields = {"task": "language-modelling", "windows": "joined", "rows": 5}
    found = open_splits(spec(path, **fields))["train"]
    assert found["text"][:] == [f"row {i}" for i in range(5)]


def hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """A hub that holds these rows, and what it was asked for."""
    asked: list[tuple[Any, ...]] = []

    def load(name: str, part: str, streaming: bool = False) -> datasets.IterableDatasetDict:
        asked.append((name, part, streaming))
        stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
        return datasets.IterableDatasetDict(train=stream)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_hub_set_is_streamed_where_only_some_rows_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = hub(monkeypatch, sorted_by_class())
    found = open_splits(spec("someone/large", rows=60, subset="en"))["train"]
    assert asked == [("someone/large", "en", True)]
    assert len(found) == 60 and len(set(found["text"])) == 60
    assert len(set(found["label"])) == 3


def test_a_hub_set_larger_than_what_is_looked_at_is_read_all_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, path = pa.Table.from_pylist(sorted_by_class()), str(tmp_path / "rows.parquet")
    pq.write_table(table, path, row_group_size=10)
    streams = datasets.load_dataset("parquet", data_files=path, streaming=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: streams)
    monkeypatch.setattr(sources, "_ROWS_READ", 60)
    found = open_splits(spec("someone/large", rows=40))["train"]
    assert len(set(found["text"])) == 40 and len(set(found["label"])) == 3


def test_running_text_of_a_hub_set_keeps_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, sorted_by_class())
    fields = {"task": "language-modelling", "windows": "joined", "rows": 5}
    found = open_splits(spec("someone/large", **fields))["train"]
    assert found["text"][:] == [f"row {i}" for i in range(5)]


def test_a_folders_files_are_read_as_single_ones_are(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("text;label\na, b;NA\nc, d;None\ne;1\n")
    found = open_splits(spec(tmp_path))
    assert set(found) == {"train", "test"}
    assert found["test"][:] == {"text": ["a, b", "c, d", "e"], "label": ["NA", "None", "1"]}


def test_a_torn_file_is_told_in_one_message(tmp_path: Path) -> None:
    packed = gzip.compress(b"text,label\n" + b"a,b\n" * 500)
    (tmp_path / "o.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"o\.csv\.gz\" could not be opened"):
        open_splits(spec(tmp_path / "o.csv.gz"))


@pytest.mark.parametrize("form", [{"windows": "joined"}, {"prompts": "lm-eval"}])
def test_a_form_of_another_task_is_refused(form: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is for task = "):
        spec("x", **form)
