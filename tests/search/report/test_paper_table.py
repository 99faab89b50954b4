"""The table and the pictures made from the records of similarity chains."""

import io
import json
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from search.journal.results import Result
from search.journal.view import View
from search.report.papers.chains import chain_rows, chain_table
from search.report.pictures import pictures, pictures_svg
from trainables.core.pictures import Bars, Heatmap, picture_data

FREE = [[100.0, 98.0, None], [98.0, 100.0, 60.0], [None, 60.0, 100.0]]
PICTURES = (
    Heatmap("pass 1, stack 1: 3 blocks", FREE, [[0, 1], [2]], "CKA, percent", "block", 100.0),
    Bars("effects", [0.5, 0.1, 0.25], [2], "effect", "layer", [[0.4, 0.6], [0, 0.2], [0.2, 0.3]]),
)


def _stage(name: str, label: str = "", **counts: float) -> dict[str, Any]:
    effects = [{"effect": name}]
    return {"stage": name, "label": label, "settings": {}, "effects": effects, "counts": counts}


def _view() -> View:
    chain = _stage("Iterate", "T98 K1 pass 1 part", k=2, frozen=2)
    wanda, again = (
        _stage("Wanda", "Wanda 50 %", zeros=300),
        _stage("Recover", "retrained", frozen=0),
    )
    facts = {"blocks": 5, "parameters": 1000, "stacks": [3, 2]}
    left = {"blocks": 4, "parameters": 700, "stacks": [2, 2]}
    score = {"accuracy": 0.75, "evaluation_seconds": 1.5}
    records = [
        {"stages": stages, "shape": left} for stages in ([chain, wanda], [chain, wanda, again])
    ]
    results = (
        Result(0, "complete", {}, score, {}, {"stages": []}),
        Result(1, "complete", {}, {"accuracy": 0.7}, {}, records[0]),
        Result(2, "complete", {}, {"accuracy": 0.8}, {}, records[1]),
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


def test_columns_without_a_value_are_left_out_and_numbers_are_never_cut() -> None:
    scores = {"perplexity": 317.68737, "nonzero_parameters": 134_515_008}
    view = _view()
    plain = View(view.study, (Result(0, "complete", {}, scores, {}, {"stages": []}),))
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(chain_table(plain))
    text = console.export_text()
    assert "frozen" not in text and "evaluation s" not in text and "blocks" not in text
    assert "317.6874" in text and "134,515,008" in text


def test_all_that_stages_show_is_one_picture() -> None:
    stage = _stage("Iterate") | {"pictures": [picture_data(one) for one in PICTURES]}
    record = {"stages": [stage, _stage("Wanda")]}
    assert pictures(json.loads(json.dumps(record))) == list(PICTURES)
    picture = pictures_svg(record)
    assert picture is not None and picture.count("<svg") == 1
    assert picture == pictures_svg(record)
    assert pictures_svg({"stages": []}) is None and pictures_svg({}) is None
