"""The models of a search that ran, saved and looked at from fresh processes."""

import pytest

from search.compare import compare
from search.journal.view import View, read
from search.report.papers.comparison import read_rows
from tests.support.journals import Sample


@pytest.mark.long
def test_saved_models_are_measured_once_in_fresh_processes(
    tiny: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = read(tiny.store)
    few = View(view.study, view.results[:2], notes=view.notes)
    said: list[str] = []
    rows = compare(tiny.store, few, said.append)
    assert [row.number for row in rows] == [0, 1] and len(said) == 2
    base, pruned = rows
    assert base.same and pruned.same
    assert (base.methods == () and pruned.method.startswith("skip")) or len(pruned.methods) == 2
    assert pruned.size < base.size and pruned.memory < base.memory  # a block is gone
    assert pruned.speed > 0 and base.speed == 1.0
    value, low, high = pruned.quality
    assert low <= value <= high
    held = tiny.store.root / "comparison.json"
    assert held.is_file() and read_rows(tiny.store) == rows
    assert not list(tiny.store.root.glob(".comparison-*"))

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("search.compare.bench_for", never)
    assert compare(tiny.store, few) == rows
