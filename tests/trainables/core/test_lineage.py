"""The identity of a model: equal effects on equal models, and nothing else."""

import os
from pathlib import Path
from typing import Any

import pytest

from trainables.core.cache import Cache
from trainables.core.lineage import Lineage, code_version, fingerprint

SKIP: dict[str, Any] = {"remove": [1, 2]}
ZERO: dict[str, Any] = {"wanda": {"sparsity": 0.5, "stats": "ab"}}


def test_the_same_effects_in_the_same_order_are_the_same_model() -> None:
    one = Lineage("base").then(SKIP).then(ZERO)
    other = Lineage("base").then({"remove": (1, 2)}).then(dict(reversed(ZERO.items())))
    assert one == other
    assert one.key == other.key
    assert len(one.key) == 16


def test_base_effects_and_order_all_count() -> None:
    base = Lineage("base")
    found = [
        base,
        Lineage("other"),
        base.then(SKIP),
        base.then(ZERO),
        base.then(SKIP).then(ZERO),
        base.then(ZERO).then(SKIP),
        base.then({"remove": [1, 3]}),
        base.then({"wanda": {"sparsity": 0.5, "stats": "cd"}}),
    ]
    assert len({one.key for one in found}) == len(found)


def test_a_stage_that_changes_nothing_leaves_the_identity() -> None:
    assert Lineage("base").then(None).then(SKIP).then(None) == Lineage("base").then(SKIP)


@pytest.mark.parametrize("chain", [[SKIP, ZERO], [SKIP, None, {"chain": [ZERO]}]])
def test_a_stage_made_of_stages_is_those_stages(chain: list[Any]) -> None:
    assert Lineage("base").then({"chain": chain}) == Lineage("base").then(SKIP).then(ZERO)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"layers": 2}')
    (folder / "model.safetensors").write_bytes(b"weights!")
    (folder / "README.md").write_text("a model")
    return folder


def test_the_fingerprint_is_of_the_content(model: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    before = fingerprint(model, cache)
    assert fingerprint(model, cache) == before
    moved = model.rename(tmp_path / "moved")
    assert fingerprint(moved, cache) == before
    (moved / "README.md").write_text("another text")
    assert fingerprint(moved, cache) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_changed_file_changes_the_fingerprint(model: Path, tmp_path: Path, name: str) -> None:
    cache = Cache(tmp_path / "cache")
    before = fingerprint(model, cache)
    path = model / name
    content = bytearray(path.read_bytes())
    content[3] ^= 1  # the same size
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    assert fingerprint(model, cache) != before


def test_a_file_more_changes_the_fingerprint(model: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    before = fingerprint(model, cache)
    (model / "adapter.safetensors").write_bytes(b"more")
    assert fingerprint(model, cache) != before


def test_files_that_did_not_change_are_not_read_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    before = fingerprint(model, cache)

    def read(_: list[Path]) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr("trainables.core.lineage._content", read)
    assert fingerprint(model, cache) == before


def test_the_code_has_a_version() -> None:
    assert code_version() == code_version()
    assert len(code_version()) == 16
