"""The table that compares methods, from rows that were measured elsewhere."""

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from search.journal.results import Result
from search.journal.view import View
from search.report.model_card import _steps
from search.report.papers.comparison import (
    MOST,
    Row,
    chosen,
    comparison,
    is_comparison,
    keep_rows,
    notes,
    quality_of,
    read_rows,
    unchanged,
)
from tests.support.journals import Sample

BASE = Row(0, "a", (), (), 1000, 900, (0.92, 0.9, 0.94), 1.0, True, "transformers")
CODES = Row(
    1, "b", ("codebook 4 bits",), ("trainables.load",), 250, 900, (0.9, 0.87, 0.93), 0.99, True, "x"
)
SMALL = Row(2, "c", ("T80", "int8"), ("", "torchao"), 200, 220, (0.8, 0.7, 0.9), 1.8, True, "x")


def _stage(name: str) -> dict[str, Any]:
    return {"stage": name, "settings": {}, "effects": [{"effect": name}], "counts": {}}


def _result(number: int, stages: list[str], accuracy: float, lineage: str | None = None) -> Result:
    record = {"stages": [_stage(one) for one in stages], "lineage": lineage or f"l{number}"}
    return Result(number, "complete", {}, {"accuracy": accuracy, "bytes": 1.0}, {}, record)


def _view(results: list[Result]) -> View:
    items = SimpleNamespace(held_out=512)
    study = SimpleNamespace(
        name="demo",
        objectives={"bytes": "min", "accuracy": "max"},
        data=SimpleNamespace(items=items),
    )
    return View(cast(Any, study), tuple(results))


def test_which_of_size_memory_and_latency_stays() -> None:
    assert unchanged(CODES, BASE) == ["memory", "latency"]
    assert unchanged(SMALL, BASE) == []
    assert unchanged(replace(BASE, number=3, speed=0.7), BASE) == [
        "size",
        "memory",
        "latency (slower)",
    ]


def test_the_table_says_it_in_words() -> None:
    view = _view([_result(0, [], 0.92)])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison(view, [BASE, CODES, SMALL]))
    text = console.export_text()
    for part in ("untouched", "T80 > int8", "25.0", "90.0 [87.0, 93.0]", "1.80x", "24.4"):
        assert part in text, part
    assert "Trial 1, codebook 4 bits, does not change memory and latency." in text
    assert "To profit from codebook 4 bits: trainables.load." in text
    assert "To profit from int8: torchao." in text and "To profit from T80" not in text
    assert "Every fresh process predicted what the model did before" in text


def test_other_predictions_after_loading_are_said() -> None:
    view = _view([_result(0, [], 0.92)])
    told = notes(view, [BASE, replace(CODES, same=False)])
    assert "NOT the same predictions after loading: trial 1." in told


def test_what_is_compared_is_told_by_the_stages() -> None:
    assert is_comparison(_view([_result(0, [], 0.9), _result(1, ["Quantize"], 0.9)]))
    assert not is_comparison(_view([_result(0, [], 0.9), _result(1, ["Iterate", "Wanda"], 0.9)]))
    assert quality_of(_view([])) == "accuracy"


def test_a_model_is_compared_once() -> None:
    view = _view([_result(0, [], 0.9), _result(1, ["Wanda"], 0.8), _result(2, [], 0.9, "l0")])
    assert [one.number for one in chosen(view)] == [0, 1]


def test_of_many_models_the_front_and_the_best_of_each_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = [_result(n, ["Wanda"], 0.5 + n / 100) for n in range(1, MOST + 1)]
    other = _result(MOST + 1, ["Wanda", "Quantize"], 0.1)
    view = _view([_result(0, [], 0.9), *many, other])
    front = SimpleNamespace(trials=[many[2]])
    monkeypatch.setattr("search.report.papers.comparison.best", lambda view: front)
    assert [one.number for one in chosen(view)] == [0, 3, MOST, MOST + 1]


def test_a_card_says_what_it_takes_to_profit_from_a_stage() -> None:
    stages = [_stage("Codebook") | {"runtime": "trainables.load"}, _stage("Omission")]
    first, second = _steps(Result(1, "complete", {}, {}, {}, {"stages": stages})).splitlines()
    assert first.endswith("To profit from it: trainables.load") and "profit" not in second


def test_rows_are_kept_beside_the_study(tiny: Sample) -> None:
    assert read_rows(tiny.store) == []
    keep_rows(tiny.store, [BASE, SMALL])
    assert read_rows(tiny.store) == [BASE, SMALL]
    (tiny.store.root / "comparison.json").write_text("[{")
    assert read_rows(tiny.store) == []
