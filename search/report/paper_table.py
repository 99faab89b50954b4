"""The table that the source of similarity pruning prints, from the trials of a study.

A row is a model: how it was pruned, its blocks, parameters and non-zeros, what it scores, how long
its evaluation takes, and how many blocks were frozen while it was retrained.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, View

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
    stages: Sequence[Mapping[str, Any]] = result.record.get("stages", ())
    counts: dict[str, Any] = {"blocks": facts.get("blocks"), "parameters": facts.get("parameters")}
    counts |= {"kept_per_stack": facts.get("stacks", ()), "frozen": None, "zeros": 0}
    for stage in stages:
        found = stage["counts"]
        passes = [one for one in found.get("passes", ()) if one["accepted"]]
        counts |= {name: found[name] for name in counts if name in found}
        if passes:
            counts["frozen"] = passes[-1]["frozen"]
    kept = tuple(counts["kept_per_stack"])
    dense, metrics = counts["parameters"], result.metrics
    zeros = metrics.get("nonzero_parameters", None if dense is None else dense - counts["zeros"])
    return Row(
        number=result.number,
        model=" + ".join(_told(stages)) or "original",
        blocks=counts["blocks"],
        kept=kept if len(kept) > 1 else (),
        parameters=dense,
        nonzeros=None if zeros is None else int(zeros),
        scores={name: value for name, value in metrics.items() if name not in _COLUMNS},
        seconds=metrics.get("evaluation_seconds"),
        frozen=None if counts["frozen"] is None else len(counts["frozen"]),
    )


def _told(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The stages that changed something, in the source's words."""
    for stage in stages:
        given = stage["settings"]
        if stage["effect"] is None:
            continue
        if stage["stage"] == "Iterate":
            passes = [one for one in stage["counts"]["passes"] if one["accepted"]]
            part = " part" if given["freeze"] == "part" else ""
            yield f"T{given['threshold']:g} K{passes[-1]['k']} pass {len(passes)}{part}"
        elif stage["stage"] == "Wanda":
            yield f"Wanda {100 * given['sparsity']:.0f} %"
        else:
            yield {"Recover": "retrained"}.get(stage["stage"], stage["stage"])


def chain_table(view: View) -> "Table":
    """The rows as a table for people."""
    from rich.table import Table

    rows = chain_rows(view)
    scores = list(dict.fromkeys(name for row in rows for name in row.scores))
    table = Table("trial", "model", title=view.study.name)
    numbers = ("blocks", "parameters", "non-zeros", *scores, "evaluation s", "frozen")
    for name in numbers:
        table.add_column(name, justify="right")
    for row in rows:
        stacks = f" ({','.join(map(str, row.kept))})" if row.kept else ""
        table.add_row(
            str(row.number) if row.number else "",
            row.model,
            _text(row.blocks, "d") + stacks,
            _text(row.parameters, ",d"),
            _text(row.nonzeros, ",d"),
            *(_text(row.scores.get(name), ".4f") for name in scores),
            _text(row.seconds, ".2f"),
            _text(row.frozen, "d"),
        )
    return table


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
