"""Arms in pairs, ranks of effects, and the regret of a pick, by hand."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from search.journal.results import Result
from search.journal.view import View
from search.ledger.run_fields import study_values
from search.report.across import across, across_text, across_values
from search.report.across.layers import rankings, spearman
from search.report.across.pairs import pairs
from search.report.page import page
from search.study.schema import Study

STUDY = {
    "name": "plugged",
    "space": "plugin",
    "model": {"id": "small"},
    "data": {"dataset": "rows", "task": "classification"},
    "objectives": {"accuracy": "max", "parameters": "min"},
    "budget": {"trials": 9},
}
EFFECTS = [0.1, 0.3, 0.2]


def trial(number: int, seed: int, layer: int | None, accuracy: float, **changed: Any) -> Result:
    counts = {"donor_bytes": 0 if layer is None else 8} | (
        {} if layer is None else {"layer": layer}
    )
    details = {"selection": {"llm_type": "big", "effects": EFFECTS, "best_llm_layer": 1}}
    step = {
        "stage": "PlugIn",
        "label": "no layer" if layer is None else f"big layer {layer}",
        "settings": {"seed": seed, "donor": "big", "layers": 1, "frozen": True, "random": False}
        | changed,
        "effects": [{}],
        "counts": counts,
        "details": {} if layer is None else details,
    }
    metrics = {"accuracy": accuracy, "parameters": 1.0}
    params = {"plugin.layer": "any", "plugin.seed": seed}
    return Result(number, "complete", params, metrics, {}, {"stages": [step]})


def view(*results: Result) -> View:
    return View(Study.model_validate(STUDY), results)


def seen(*, third: float | None = 0.65) -> View:
    """Two seeds: no layer, layers 0 and 1, and on one of them layer 2."""
    rows = [(1, None, 0.5), (2, None, 0.6), (1, 0, 0.52), (2, 0, 0.61), (1, 1, 0.58), (2, 1, 0.63)]
    rows += [] if third is None else [(2, 2, third)]
    return view(*(trial(i + 1, seed, layer, value) for i, (seed, layer, value) in enumerate(rows)))


def test_pairs_by_hand() -> None:
    first, second = pairs(seen(), "accuracy")
    assert (first.arm, second.arm) == ("big layer 0", "big layer 1")
    assert second.seeds == (1, 2) and second.won == 2
    assert (second.reference, second.value) == pytest.approx((0.55, 0.605))
    low, high = stats.t.interval(0.95, 1, loc=0.055, scale=stats.sem([0.08, 0.03]))
    assert (second.difference, second.low, second.high) == pytest.approx((0.055, low, high))


def test_an_arm_of_one_seed_has_no_interval() -> None:
    assert [one.arm for one in pairs(seen(), "accuracy")] == ["big layer 0", "big layer 1"]
    assert pairs(view(trial(1, 1, 0, 0.5), trial(2, 2, 0, 0.5)), "accuracy") == []


def test_effects_against_what_layers_are_worth() -> None:
    (found,) = rankings(seen(), "accuracy")
    assert found.layers == {
        0: (0.1, pytest.approx(0.015), 2),
        1: (0.3, pytest.approx(0.055), 2),
        2: (0.2, pytest.approx(0.05), 1),
    }
    assert found.correlation == pytest.approx(1.0) and found.complete
    assert found.regret == pytest.approx(0.0)
    (worse,) = rankings(seen(third=0.7), "accuracy")
    assert worse.regret == pytest.approx(0.045) and worse.correlation == pytest.approx(0.5)


def test_layers_that_were_not_all_tried_are_said() -> None:
    (found,) = rankings(seen(third=None), "accuracy")
    assert not found.complete and found.correlation is None
    console = Console(record=True, width=120, file=StringIO())
    for table in across(seen(third=None)):
        console.print(table)
    text = console.export_text()
    assert "2 of 3 layers tried" in text and "regret of the pick 0.0000" in text
    assert "2 of 2" in text and "+0.0550" in text


def test_a_layer_that_was_changed_says_nothing_of_its_effect() -> None:
    rows = (trial(1, 1, None, 0.5), trial(2, 1, 0, 0.9, random=True), trial(3, 1, 1, 0.6))
    (found,) = rankings(view(*rows), "accuracy")
    assert list(found.layers) == [1]


def test_studies_without_such_trials_show_nothing() -> None:
    plain = Result(1, "complete", {}, {"accuracy": 0.5, "parameters": 1.0}, {}, {"stages": []})
    assert across(view(plain)) == []


def test_ranks_are_those_of_scipy() -> None:
    one, other = [3.0, 1.0, 1.0, 2.0, 5.0], [2.0, 2.0, 1.0, 0.0, 9.0]
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_the_ledger_and_the_page_tell_the_regret_of_the_pick() -> None:
    """Layer 1 was picked and is worth 0.055 more than no layer; layer 2, on one seed, 0.05."""
    told = across_values(seen())
    assert told["effects/big/tried"] == told["effects/big/layers"] == 3
    assert told["effects/big/regret"] == pytest.approx(0)
    assert across_values(seen(third=None)).keys() == {
        f"effects/big/{name}" for name in ("tried", "layers", "regret")
    }
    assert told.items() <= study_values(seen()).items()
    assert "regret of the pick" in across_text(seen()) and "regret of the pick" in page(seen())
    assert across_text(view()) == "" and across_values(view()) == {}
