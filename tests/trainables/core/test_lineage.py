"""The identity of a model: equal effects on equal models, and nothing else."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from trainables.core.cache import Cache
from trainables.core.lineage import (
    Effect,
    Lineage,
    code_version,
    fingerprint,
    importable_name,
    own_files,
    own_version,
    reference_version,
    source_version,
)
from trainables.omission import Omission
from trainables.stage import Reading, Removed, Stage, Subject
from trainables.wanda import Zeroed

SKIP = Removed((1, 2))
ZERO = Zeroed(0.5, None, "ab")


def test_the_same_effects_in_the_same_order_are_the_same_model() -> None:
    one = Lineage("base").then([SKIP]).then([ZERO])
    other = Lineage("base").then([Removed((1, 2)), Zeroed(0.5, None, "ab")])
    assert one == other
    assert one.key == other.key
    assert len(one.key) == 16


def test_base_effects_and_order_all_count() -> None:
    base = Lineage("base")
    found = [
        base,
        Lineage("other"),
        base.then([SKIP]),
        base.then([ZERO]),
        base.then([SKIP, ZERO]),
        base.then([ZERO, SKIP]),
        base.then([Removed((1, 3))]),
        base.then([Zeroed(0.5, None, "cd")]),
        base.then([SKIP], source="a user's own stage"),
    ]
    assert len({one.key for one in found}) == len(found)


def test_a_stage_that_changes_nothing_leaves_the_identity() -> None:
    assert Lineage("base").then([]).then([SKIP]).then([]) == Lineage("base").then([SKIP])


def test_effects_of_two_classes_are_two_models_whatever_they_say() -> None:
    @dataclass(frozen=True)
    class Removed(Effect):
        blocks: tuple[int, ...]

    assert Lineage("base").then([Removed((1, 2))]) != Lineage("base").then([SKIP])


# -- a user's own code ---------------------------------------------------------------------------

METHOD = """
from dataclasses import dataclass
from trainables.stage import Method, Removed, Summary
import {helper}

@dataclass(frozen=True)
class Mine(Method):
    share: float = 0.5

    def apply(self, model, stats):
        return Summary((Removed((1,)),), {{"removed": {helper}.COUNT}})

@dataclass(frozen=True)
class Other(Method):
    def apply(self, model, stats):
        return Summary((Removed((1,)),))

def five(made):
    return 5.0

def six(made):
    return 6.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Writes a user's modules, and imports them as a new process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("users_method", "users_helper", "users_deeper")

    def forget() -> None:
        importlib.invalidate_caches()
        reference_version.cache_clear()
        for name in names:
            sys.modules.pop(name, None)

    def write(method: str = METHOD, helper: int = 1, deeper: int = 1) -> ModuleType:
        forget()
        Path(tmp_path, "users_deeper.py").write_text(f"DEEP = {deeper}  # {deeper * 'x'}\n")
        text = f"from users_deeper import DEEP\nCOUNT = {helper}  # {helper * 'y'}\n"
        Path(tmp_path, "users_helper.py").write_text(text)
        Path(tmp_path, "users_method.py").write_text(method.format(helper="users_helper"))
        return importlib.import_module("users_method")

    yield write
    forget()


def steps_of(stage: Stage) -> Lineage:
    model: Any = torch.nn.Identity()
    return (
        Subject(model, Lineage("base"), Reading(None, None))
        .after(  # type: ignore[arg-type]
            stage, stage.apply(model, {})
        )
        .lineage
    )


def test_a_corrected_method_is_another_lineage(own: Callable[..., ModuleType]) -> None:
    before = steps_of(own().Mine())
    assert steps_of(own().Mine()) == before
    assert steps_of(own(METHOD.replace("0.5", "0.25")).Mine(0.5)) != before


@pytest.mark.parametrize("changed", ["helper", "deeper"])
def test_so_is_one_whose_helper_modules_changed(
    own: Callable[..., ModuleType], changed: str
) -> None:
    before = own()
    stage, function = steps_of(before.Mine()), source_version(before.five)
    metric = reference_version("users_method:five")
    after = own(**{changed: 2})
    assert steps_of(after.Mine()) != stage
    assert source_version(after.five) != function
    assert reference_version("users_method:five") != metric


def test_two_methods_with_equal_effects_are_two_lineages(own: Callable[..., ModuleType]) -> None:
    mine = own()
    assert steps_of(mine.Mine()) != steps_of(mine.Other())


def test_two_functions_of_one_file_are_two_versions(own: Callable[..., ModuleType]) -> None:
    mine = own()
    assert source_version(mine.five) != source_version(mine.six)


def test_two_functions_of_one_factory_are_two_versions(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "users_factory.py").write_text(
        "from functools import partial\n"
        "def scaled(k):\n    return lambda made: k\n"
        "five, six, part = scaled(5), scaled(6), partial(max, 1)\n"
    )
    names = ("five", "six", "part")
    assert len({reference_version(f"users_factory:{name}") for name in names}) == 3


@pytest.mark.parametrize("marked", [True, False])
def test_a_packages_own_modules_count_by_any_kind_of_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """With an `__init__.py` or without, and with a file that is not Python."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / f"users_package_{marked}"
    (package / "deep").mkdir(parents=True)
    (package / "a.py").write_text("from .deep.b import f\nfrom . import c\n")
    (package / "deep" / "b.py").write_text("from ..d import f\n")
    (package / "c.py").write_bytes("# -*- coding: latin-1 -*-\nNAME = 'é'\n".encode("latin-1"))
    (package / "d.py").write_text("print 'old Python'\n")
    for folder in (package, package / "deep") if marked else ():
        (folder / "__init__.py").write_text("")
    found = {path.name for path in own_files(f"{package.name}.a")} - {"__init__.py"}
    assert found == {"a.py", "b.py", "c.py", "d.py"}
    assert len(reference_version(f"{package.name}.a:f")) == 16


def test_our_own_code_is_no_users_code() -> None:
    assert own_version(Omission) == own_version(Removed) == ""
    assert importable_name(Omission) == "trainables.omission:Omission"


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
