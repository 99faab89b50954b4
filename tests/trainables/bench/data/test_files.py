"""Files as people bring them: packed, encoded and delimited in many ways."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from search.study.checks import looks_local
from trainables.bench.data.files import read_files
from trainables.bench.data.sources import open_splits
from trainables.core.errors import DataError
from trainables.core.spec import DATA_FILES, DataSpec


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(path: Path, **fields: Any) -> dict[str, list[Any]]:
    spec = DataSpec.model_validate({"dataset": "x", "task": "classification", **fields})
    return {name: list(values) for name, values in read_files([path], spec)[:].items()}


def test_labels_that_look_like_missing_values_are_text(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("text,label\nup,NA\ndown,None\naside,null\nthere,EU\n")
    assert read(path)["label"] == ["NA", "None", "null", "EU"]


def test_an_empty_cell_is_missing_and_leaves_numbers_whole(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("text,label\na,0\nb,\nc,2\n")
    assert read(path)["label"] == [0, None, 2]


def test_dates_and_truth_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("text,on,right\na,2024-01-02,True\nb,2024-01-03,no\n")
    assert read(path) == {
        "text": ["a", "b"],
        "on": ["2024-01-02", "2024-01-03"],
        "right": ["True", "no"],
    }


def test_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("question,answer,code,right\na,42,007,1.0\nb,3.50,012,\nc,,, 0.0\n")
    assert read(path, task="generation") == {
        "question": ["a", "b", "c"],
        "answer": ["42", "3.50", ""],
        "code": ["007", "012", ""],
        "right": [1.0, None, 0.0],  # whole numbers, as some write them beside empty cells
    }
    path.write_text("text,label,code\na, 1.0,01\nb, 0,02\n")
    found = read(path)
    assert found["label"] == [1.0, 0.0] and found["code"] == ["01", "02"]


def test_quoted_cells_hold_delimiters_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text('text,label\n"one, two\nthree",x\n"say ""hi""",y\n')
    assert read(path)["text"] == ["one, two\nthree", 'say "hi"']


@pytest.mark.parametrize(
    ("name", "mark"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")]
)
def test_what_parts_the_columns_is_found(tmp_path: Path, name: str, mark: str) -> None:
    rows = [
        ("text", "label"),
        ("it's, well, a film", "good"),
        ("no, 'never'", "bad"),
        ("so", "bad"),
    ]
    (tmp_path / name).write_text("".join(f"{a}{mark}{b}\n" for a, b in rows))
    assert read(tmp_path / name) == {
        "text": [a for a, _ in rows[1:]],
        "label": [b for _, b in rows[1:]],
    }


def test_commas_win_over_semicolons_in_the_text(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("text,label\nwell; so; it goes,a\nfine; done; yes,b\n")
    assert set(read(path)) == {"text", "label"}


def test_the_study_may_say_what_parts_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("text~label\na,b~1\n")
    assert read(path, delimiter="~") == {"text": ["a,b"], "label": [1]}


TEXTS = {
    "cp949": "이 영화는 정말 재미있었습니다",
    "cp1251": "Этот фильм был очень хорошим и смешным",
    "utf-16": "El niño vio la película",
    "utf-16-le": "El niño vio la película",
    "utf-16-be": "이 영화는 정말 재미있었습니다",
    "utf-8-sig": "déjà vu",
    "latin-1": "La película fue buenísima, ¡qué niño más gracioso! señor García",
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
@pytest.mark.parametrize("encoding", TEXTS)
def test_the_encoding_is_found(tmp_path: Path, encoding: str, suffix: str) -> None:
    texts = [f"{TEXTS[encoding]} {i}" for i in range(6)]
    written = {
        ".csv": "".join(["text\n", *(f'"{text}"\n' for text in texts)]),
        ".jsonl": "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts),
        ".txt": "\n".join(texts),
    }
    path = tmp_path / f"o{suffix}"
    path.write_bytes(written[suffix].encode(encoding))
    assert read(path) == {"text": texts}


def test_a_guessed_encoding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "o.csv"
    path.write_bytes(f"text\n{TEXTS['cp1251']}\n".encode("cp1251"))
    with caplog.at_level(logging.WARNING):
        read(path)
    assert "o.csv is not UTF-8; it is read as cp1251: [data] encoding" in caplog.text


def test_the_study_may_say_the_encoding(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_bytes("text\nżółw\n".encode("cp1250"))
    assert read(path, encoding="cp1250") == {"text": ["żółw"]}
    with pytest.raises(DataError, match=r"cannot be read as utf-8 \(byte 5\); .*encoding"):
        read(path, encoding="utf-8")
    with pytest.raises(ValueError, match="an encoding that Python knows"):
        read(path, encoding="latin-99")


@pytest.mark.parametrize("suffix", sorted(set(DATA_FILES) - {".parquet"}))
def test_packed_files_are_read(tmp_path: Path, suffix: str) -> None:
    written = {"csv": "text\nhello\nthere\n", "text": "hello\nthere\n"}
    lines = '{"text": "hello"}\n{"text": "there"}\n'
    path = tmp_path / f"o{suffix}.gz"
    with gzip.open(path, "wt") as file:
        file.write(written.get(DATA_FILES[suffix], lines))
    assert read(path) == {"text": ["hello", "there"]}
    assert looks_local(path.name)


def test_rows_with_too_few_or_too_many_cells_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o.csv"
    path.write_text("text,label\na,1\nb,2,3\nc,4\nd\n")
    with caplog.at_level(logging.WARNING):
        assert read(path) == {"text": ["a", "c"], "label": [1, 4]}
    assert "2 rows are left out, the first in line 3: 3 cells instead of 2" in caplog.text


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "o.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"no reader for this kind of file.*\.csv, \.tsv"):
        read(tmp_path / "o.xlsx")


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "there is nothing in it"), ('{"text": "a"\n{"b"', "JSON parse error")],
)
def test_rows_that_cannot_be_read_are_told_by_what_is_wrong(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "o.jsonl").write_text(text)
    spec = DataSpec(dataset=str(tmp_path / "o.jsonl"), task="language-modelling")
    with pytest.raises(DataError, match=f"could not be opened: .*{said}"):
        open_splits(spec)


@pytest.mark.parametrize("name", ["data [v2].jsonl", "a*b?.jsonl", "data [v2].csv"])
def test_a_name_may_hold_what_patterns_are_made_of(tmp_path: Path, name: str) -> None:
    text = "text\na\n" if name.endswith("csv") else '{"text": "a"}\n'
    (tmp_path / "[one] folder").mkdir()
    (tmp_path / "[one] folder" / name).write_text(text)
    spec = DataSpec(dataset=str(tmp_path / "[one] folder" / name), task="language-modelling")
    assert open_splits(spec)["train"]["text"][:] == ["a"]
    with pytest.raises(DataError, match=r"path holds one of \* \? \[: got .*rename it"):
        open_splits(spec.model_copy(update={"dataset": str(tmp_path / "[one] folder")}))
