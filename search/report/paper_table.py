"""The table that the source of similarity pruning prints, from the trials of a study.

A row is a model: how it was pruned, its blocks, parameters and non-zeros, what it scores, how long
its evaluation takes, and how many blocks were frozen while it was retrained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.view import View

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("parameters", "nonzero_parameters", "evaluation_seconds")  # which have their own place


@dataclass(frozen=True)
class Row:
    """One model of the table; None where a trial does not say."""

    number: int
    model: str
    blocks: int | None
    kept: tuple[int, ...]  # per stack, where there is more than one
    parameters: int | None
    nonzeros: int | None
    scores: dict[str, float]
    seconds: float | None
    frozen: int | None


def chain_rows(view: View) -> list[Row]:
    """The untouched model and every completed trial, in their order."""
    done = [result for result in view.results if result.state == "complete"]
    return [_row(result, view.notes.get("facts") or {}) for result in done]


def _row(result: Result, facts: Mapping[str, Any]) -> Row:
    counts: dict[str, Any] = {"blocks": facts.get("blocks"), "parameters": facts.get("parameters")}
    for step in result.stages:
        counts |= step.counts
    counts |= result.shape
    kept = tuple(counts.get("stacks") or facts.get("stacks", ()))
    dense, metrics = counts["parameters"], result.metrics
    left = None if dense is None else dense - counts.get("zeros", 0)
    zeros = metrics.get("nonzero_parameters", left)
    return Row(
        number=result.number,
        model=" + ".join(step.label for step in result.stages if step.changed) or "original",
        blocks=counts["blocks"],
        kept=kept if len(kept) > 1 else (),
        parameters=dense,
        nonzeros=None if zeros is None else int(zeros),
        scores={name: value for name, value in metrics.items() if name not in _COLUMNS},
        seconds=metrics.get("evaluation_seconds"),
        frozen=counts.get("frozen"),
    )


def chain_table(view: View) -> "Table":
    """The rows as a table for people."""
    from rich.table import Table
    from rich.text import Text

    rows = chain_rows(view)
    scores = list(dict.fromkeys(name for row in rows for name in row.scores))
    columns = {
        "blocks": [_blocks(row) for row in rows],
        "parameters": [_text(row.parameters, ",d") for row in rows],
        "non-zeros": [_text(row.nonzeros, ",d") for row in rows],
        **{name: [_text(row.scores.get(name), ".4f") for row in rows] for name in scores},
        "evaluation s": [_text(row.seconds, ".2f") for row in rows],
        "frozen": [_text(row.frozen, "d") for row in rows],
    }
    shown = {name: column for name, column in columns.items() if any(column)}
    table = Table("trial", "model", title=view.study.name)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row, *values in zip(rows, *shown.values(), strict=True):
        table.add_row(str(row.number or ""), Text(row.model), *values)
    return table


def _blocks(row: Row) -> str:
    return _text(row.blocks, "d") + (f" ({','.join(map(str, row.kept))})" if row.kept else "")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
