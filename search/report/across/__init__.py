"""What shows only across trials: arms in pairs, and how well one number foretells another."""

from io import StringIO
from typing import TYPE_CHECKING

from search.journal.view import View
from search.report.across.layers import ranking_table, rankings
from search.report.across.pairs import pairs_table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["across", "across_text", "across_values"]


def across(view: View) -> "list[Table]":
    """Tables for those objectives of which more is better; none where no trials can be compared."""
    metrics = _metrics(view)
    compared = [pairs_table(view, metric) for metric in metrics]
    ranked = [ranking_table(one, m) for m in metrics[:1] for one in rankings(view, m)]
    return [*filter(None, compared), *ranked]


def across_text(view: View) -> str:
    """The same tables as text, for pages; empty where no trials can be compared."""
    from rich.console import Console

    console = Console(file=StringIO(), width=100, color_system=None)
    for table in across(view):
        console.print(table)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def across_values(view: View) -> dict[str, float]:
    """For each donor of layers, what its effects foretold: how many layers were tried, of how many,
    the rank correlation, and the regret of the pick as soon as that was tried."""
    values: dict[str, float] = {}
    for one in [one for metric in _metrics(view)[:1] for one in rankings(view, metric)]:
        told: dict[str, float | None] = {"tried": len(one.layers), "layers": one.count}
        told |= {"rank_correlation": one.correlation, "regret": one.regret}
        known = {name: float(value) for name, value in told.items() if value is not None}
        values |= {f"effects/{one.donor}/{name}": value for name, value in known.items()}
    return values


def _metrics(view: View) -> list[str]:
    """The objectives of which more is better."""
    return [name for name, direction in view.study.objectives.items() if direction == "max"]
