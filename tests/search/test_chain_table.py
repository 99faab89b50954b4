"""The table and the pictures made from the records of similarity chains."""

import io
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from search.journal.results import Result
from search.journal.view import View
from search.report.heatmap import heatmaps_svg, similarities
from search.report.paper_table import chain_rows, chain_table

FREE = [[100.0, 98.0, None], [98.0, 100.0, 60.0], [None, 60.0, 100.0]]
LATE = [[100.0, 97.0], [97.0, 100.0]]


def _pass(matrix: list[Any], modules: list[list[int]], accepted: bool) -> dict[str, Any]:
    return {
        "k": 1,
        "matrix": matrix,
        "modules": modules,
        "accepted": accepted,
        "frozen": [0, 3],
        "blocks": 4,
    }


def _iterate() -> dict[str, Any]:
    passes = [
        _pass([FREE, LATE], [[0, 1], [2], [3], [4]], True),
        _pass([LATE, LATE], [[0, 1], [2, 3]], False),
    ]
    return {
        "stage": "Iterate",
        "settings": {"threshold": 98.0, "k": 1, "freeze": "part"},
        "effect": {"chain": []},
        "counts": {
            "passes": passes,
            "blocks": 4,
            "kept_per_stack": [2, 2],
            "parameters": 700,
            "k": 2,
        },
    }


def _view() -> View:
    wanda = {
        "stage": "Wanda",
        "settings": {"sparsity": 0.5},
        "effect": {"wanda": {}},
        "counts": {"zeros": 300},
    }
    again = {
        "stage": "Recover",
        "settings": {},
        "effect": {"recover": {}},
        "counts": {"frozen": []},
    }
    facts = {"blocks": 5, "parameters": 1000, "stacks": [3, 2]}
    score = {"accuracy": 0.75, "evaluation_seconds": 1.5}
    results = (
        Result(0, "complete", {}, score, {}, {"stages": []}),
        Result(1, "complete", {}, {"accuracy": 0.7}, {}, {"stages": [_iterate(), wanda]}),
        Result(2, "complete", {}, {"accuracy": 0.8}, {}, {"stages": [_iterate(), wanda, again]}),
        Result(3, "fail", {}, {}, {}, {"reason": "no"}),
    )
    return View(cast(Any, SimpleNamespace(name="demo")), results, notes={"facts": facts})


def test_rows_say_what_became_of_the_model() -> None:
    base, pruned, again = chain_rows(_view())
    assert (base.model, base.blocks, base.kept, base.parameters) == ("original", 5, (3, 2), 1000)
    assert (base.seconds, base.frozen, base.nonzeros) == (1.5, None, 1000)
    assert pruned.model == "T98 K1 pass 1 part + Wanda 50 %"
    assert (pruned.blocks, pruned.parameters, pruned.nonzeros) == (4, 700, 400)
    assert (pruned.kept, pruned.frozen) == ((2, 2), 2)
    assert again.model.endswith("retrained") and again.frozen == 0


def test_the_table_is_for_people() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(chain_table(_view()))
    text = console.export_text()
    assert "4 (2,2)" in text and "0.7500" in text and "1,000" in text and "1.50" in text


def test_every_matrix_of_a_trial_is_a_picture() -> None:
    record = {"stages": [_iterate()]}
    found = list(similarities(record))
    assert [one.title for one in found] == [
        "pass 1, stack 1: 3 blocks, 2 modules",
        "pass 1, stack 2: 2 blocks, 2 modules",
        "pass 2, stack 1: 2 blocks, 1 modules, undone",
        "pass 2, stack 2: 2 blocks, 1 modules, undone",
    ]
    assert found[1].modules == ((0,), (1,)) and found[3].modules == ((0, 1),)
    picture = heatmaps_svg(record)
    assert picture is not None and picture.count("<svg") == 1
    assert picture == heatmaps_svg(record)


def test_a_single_stage_has_a_picture_too_and_others_none() -> None:
    counts = {"matrix": [LATE], "modules": [[0, 1]]}
    stage = {"stage": "Similarity", "settings": {"threshold": 95.0}, "counts": counts}
    (one,) = similarities({"stages": [stage]})
    assert (one.title, one.threshold) == ("pass 1: 2 blocks, 1 modules", 95.0)
    assert heatmaps_svg({"stages": []}) is None and heatmaps_svg({}) is None
