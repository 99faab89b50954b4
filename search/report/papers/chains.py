"""The table that sources on pruning print, from the trials of a study.

A row is a model: how it was pruned, its blocks, parameters and non-zeros, what it scores, how long
its evaluation takes, and how many blocks were frozen while it was retrained. Of a search in phases
also the phase and its trial (`4-3`), the share of neurons or parameters that is gone, and a remark;
scores have their intervals where what each item scored is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.view import View
from search.report.format import cell, mark
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.bootstrap import Interval, interval
from trainables.core.scores import read_scores, scores_file

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
    phase: str = ""
    pruned: float | None = None  # percent of the neurons, or else of the parameters
    remark: str = ""
    intervals: Mapping[str, Interval] = field(default_factory=dict)


def chain_rows(view: View, results: Path | None = None) -> list[Row]:
    """The untouched model and every completed trial, in their order.

    Args:
        results: the folder beside which lies what each item scored.
    """
    done = [result for result in view.results if result.state == "complete"]
    return [_row(result, view.notes.get("facts") or {}, results) for result in done]


def _row(result: Result, facts: Mapping[str, Any], results: Path | None) -> Row:
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
        phase="-".join(str(number + 1) for number in result.phase or ()),
        pruned=_pruned(counts, facts),
        remark=mark(result),
        intervals=_intervals(result, results),
    )


def _pruned(counts: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """Percent of the neurons that are gone, or where none are counted of the parameters."""
    gone = counts.get("neurons_removed", counts.get("neurons_masked"))
    if gone is not None and (all_ := gone + counts.get("neurons", 0)):
        return float(100 * gone / all_)
    before, after = facts.get("parameters"), counts.get("parameters")
    return 100 * (1 - after / before) if before and after is not None else None


def _intervals(result: Result, results: Path | None) -> dict[str, Interval]:
    uid = result.record.get("uid")
    found = read_scores(scores_file(results, uid)) if results and uid else None
    if found is None:
        return {}
    return {name: interval(name, found) for name in found if name in result.metrics}


def chain_table(view: View, results: Path | None = None) -> "Table":
    """The rows as a table for people; `results` as in `chain_rows`."""
    from rich.table import Table
    from rich.text import Text

    rows = chain_rows(view, results)
    phased = any(row.phase for row in rows)
    scores = list(dict.fromkeys(name for row in rows for name in row.scores))
    columns = {
        "blocks": [_blocks(row) for row in rows],
        "parameters": [_text(row.parameters, ",d") for row in rows],
        "non-zeros": [_text(row.nonzeros, ",d") for row in rows],
        **{name: [_score(row, name) for row in rows] for name in scores},
        "evaluation s": [_text(row.seconds, ".2f") for row in rows],
        "frozen": [_text(row.frozen, "d") for row in rows],
    }
    if phased:
        columns = {"pruned %": [_text(row.pruned, ".1f") for row in rows], **columns}
    shown = {name: column for name, column in columns.items() if any(column)}
    table = Table("id" if phased else "trial", "model", title=view.study.name)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    if phased:
        table.add_column("remark")
    for row, *values in zip(rows, *shown.values(), strict=True):
        name = row.phase or str(row.number or "")
        table.add_row(name, Text(row.model), *values, *([Text(row.remark)] if phased else []))
    return table


def _score(row: Row, name: str) -> str:
    """A score, with where it may lie; what has a unit as people read it."""
    value = row.scores.get(name)
    if value is None:
        return ""
    fact = METRIC_FACTS.get(name)
    said = cell(name, value) if fact and fact.unit in ("ms", "B", "s", "1/s") else f"{value:.4f}"
    if name not in row.intervals:
        return said
    _, low, high = row.intervals[name]
    return f"{said} ({low:.3f} to {high:.3f})"


def _blocks(row: Row) -> str:
    return _text(row.blocks, "d") + (f" ({','.join(map(str, row.kept))})" if row.kept else "")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
