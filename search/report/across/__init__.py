"""What shows only across trials: arms in pairs, and how well one number foretells another."""

from typing import TYPE_CHECKING

from search.journal.view import View
from search.report.across.layers import ranking_table, rankings
from search.report.across.pairs import pairs_table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["across"]


def across(view: View) -> "list[Table]":
    """Tables for those objectives of which more is better; none where no trials can be compared."""
    metrics = [name for name, direction in view.study.objectives.items() if direction == "max"]
    compared = [pairs_table(view, metric) for metric in metrics]
    ranked = [ranking_table(one, m) for m in metrics[:1] for one in rankings(view, m)]
    return [*filter(None, compared), *ranked]
