"""Which columns a task reads, which classes there are, and what is said of the others."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Regex
from tokenizers.normalizers import Replace

from tests.support.toys import bytes_tokenizer, jsonl, word_tokenizer
from trainables.bench.data.roles import Data, load_data
from trainables.bench.data.unlabelled import raw_texts
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, TextsSpec

FEW = {"calibration": 3, "train": 8, "search": 5, "held_out": 4}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def loaded(path: Path | str, tokenizer: Any = None, **fields: Any) -> Data:
    given = {"dataset": str(path), "task": "classification", "items": FEW, "max_length": 40}
    return load_data(DataSpec.model_validate(given | fields), tokenizer or bytes_tokenizer(), 0)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    return Path(jsonl(path, rows))


PAIRS = [
    ("question", "sentence"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("Query", "Passage"),
    ("claim", "evidence"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_texts_that_belong_together_are_both_read(tmp_path: Path, first: str, second: str) -> None:
    rows = [{second: f"b {i}", first: f"a {i}", "label": i % 2, "idx": i} for i in range(40)]
    data = loaded(written(tmp_path / "o.jsonl", rows))
    for item in data.items("train"):
        assert item.text.startswith("a ") and item.second == f"b {item.text.split()[1]}"
    assert data.description["columns"] == {"text": first, "text_b": second, "label": "label"}


def test_texts_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"title": f"t{i}", "text": f"x {i}", "label": i % 2, "n": i} for i in range(40)]
    with caplog.at_level(logging.WARNING):
        data = loaded(written(tmp_path / "o.jsonl", rows))
    assert "read as text = text, label = label; not read: title" in caplog.text
    assert data.description["not read"] == ["title"]
    both = loaded(written(tmp_path / "o.jsonl", rows), columns={"text_b": "title"})
    assert both.items("search")[0].second.startswith("t")
    assert both.description["not read"] == []


@pytest.mark.parametrize("task", ["classification", "language-modelling"])
def test_where_nothing_is_text_one_message_names_the_columns(tmp_path: Path, task: str) -> None:
    rows = [{"number": i, "label": i % 2} for i in range(40)]
    with pytest.raises(DataError, match=r'no column found for "text": .* has number, label\. Name'):
        loaded(written(tmp_path / "o.jsonl", rows), task=task)


def test_columns_go_by_their_names_in_any_case(tmp_path: Path) -> None:
    rows = [{"Text": f"x {i}", "LABEL": i % 2} for i in range(40)]
    data = loaded(written(tmp_path / "o.jsonl", rows))
    assert data.description["columns"] == {"text": "Text", "label": "LABEL"}


@pytest.mark.parametrize("task", ["classification", "language-modelling"])
@pytest.mark.parametrize(("kind", "text"), [("table", {"a": "x"}), ("List", ["x", "y"])])
def test_a_text_column_of_tables_is_refused(
    tmp_path: Path, kind: str, text: object, task: str
) -> None:
    rows = [{"text": text, "label": i % 2} for i in range(40)]
    with pytest.raises(DataError, match=f'"text" holds a {kind} per row; allowed is text; name'):
        loaded(written(tmp_path / "o.jsonl", rows), task=task)


def test_raw_texts_that_are_tables_are_refused(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "raw.jsonl", [{"text": ["x", str(i)]} for i in range(9)])
    with pytest.raises(DataError, match='"text" holds a List per row; allowed is text'):
        raw_texts(TextsSpec(dataset=file), 0, ())


def classes(tmp_path: Path, labels: list[Any]) -> Data:
    rows = [{"text": f"x {i}", "label": labels[i % len(labels)]} for i in range(60)]
    return loaded(written(tmp_path / "o.jsonl", rows))


LABELS = [
    ([0, 1, -1], ("0", "1"), "unlabelled"),
    ([-1, 1], ("-1", "1"), ""),
    ([0, 5, 12], ("0", "5", "12"), ""),
    ([0.0, 2.0, None], ("0", "2"), "no class"),
    (["NA", "None", ""], ("NA", "None"), "no class"),
    ([True, False], ("False", "True"), ""),
]


@pytest.mark.parametrize(("labels", "names", "said"), LABELS)
def test_classes_are_what_the_labels_say(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    labels: list[Any],
    names: tuple[str, ...],
    said: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        data = classes(tmp_path, labels)
    assert data.labels == names
    for item in data.items("train"):
        label = labels[int(item.text.split()[1]) % len(labels)]
        assert names[item.label] == str(int(label) if isinstance(label, float) else label)
    assert (said in caplog.text) if said else ("passed over" not in caplog.text)


def test_whole_numbers_with_an_empty_cell_stay_classes(tmp_path: Path) -> None:
    lines = [f"x {i},{('0', '2', '')[i % 3]}" for i in range(60)]
    (tmp_path / "o.csv").write_text("\n".join(["text,label", *lines]))
    assert loaded(tmp_path / "o.csv").labels == ("0", "2")


def two_files(folder: Path, train: list[Any], test: list[Any]) -> Data:
    for name, labels in (("train", train), ("test", test)):
        rows = [{"text": f"{name} {i}", "label": labels[i % len(labels)]} for i in range(40)]
        jsonl(folder / f"{name}.jsonl", rows)
    return loaded(folder, splits={"held_out": "test"})


def test_a_class_that_only_the_held_out_file_has_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = two_files(tmp_path, ["a", "b"], ["a", "b", "c"])
    assert data.labels == ("a", "b", "c")
    assert 'c of split "test" (held_out) stands in no row of split "train" (train)' in caplog.text


def test_classes_known_to_both_files_are_nothing_to_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        two_files(tmp_path, ["a", "b"], ["b", "a"])
    assert "stands in no row" not in caplog.text


def test_named_classes_without_a_row_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["a", "b", "c"])
    )
    rows = [{"text": f"x {i}", "label": i % 2} for i in range(40)]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "set"))
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path / "set")
    assert "no row that is read is of class c" in caplog.text


def test_text_foreign_to_the_tokenizer_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"이 영화는 {i}", "label": i % 2} for i in range(40)]
    path = written(tmp_path / "o.jsonl", rows)
    with pytest.raises(DataError, match=r"100% of the tokens of .* unknown to the tokenizer; give"):
        loaded(path, word_tokenizer())
    assert len(loaded(path).items("search")) == 5
    empty = bytes_tokenizer()
    empty.backend_tokenizer.normalizer = Replace(Regex("."), "")
    with pytest.raises(DataError, match="100% of the tokens"):
        loaded(path, empty)


def test_a_text_without_tokens_is_read_as_one(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("~", "")
    rows = [{"text": "~" * (i + 1) if i % 2 else f"x {i}", "label": i % 2} for i in range(60)]
    data = loaded(written(tmp_path / "o.jsonl", rows), tokenizer, batch_size=1)
    for batch in data.batches("train"):
        assert batch["input_ids"].shape[1] >= 1
        assert torch.equal(batch["attention_mask"].sum(1) > 0, torch.ones(1, dtype=torch.bool))
