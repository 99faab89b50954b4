"""Reports and the ledger draw what a record shows: they know no method by name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.methods import METHODS
from trainables.recover import Recover
from trainables.similarity.iterative import Iterate

ROOT = Path(__file__).resolve().parents[3] / "search"
STAGES = {type(method).__name__ for method, *_ in METHODS} | {Recover.__name__, Iterate.__name__}


def words(path: Path) -> Iterator[str]:
    """The names and texts of a file, without its docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _text(one)]  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.alias):
            yield node.id if isinstance(node, ast.Name) else node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("room", ["report", "ledger", "journal"])
def test_no_method_is_known_by_name(room: str) -> None:
    files = sorted((ROOT / room).glob("*.py"))
    assert files
    for path in files:
        known = [word for word in words(path) for stage in STAGES if stage in word]
        assert not known, f"{path.name}: {known}"
