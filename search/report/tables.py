"""Rows of results on a terminal, in MLflow's pages, in lines."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from search.journal.results import Result
from search.journal.view import View
from search.report.best import Best, best
from search.report.rows import Cell, best_rows, row, rows
from search.study.schema import Study

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

COLOURS = {"better": "green", "worse": "red", "same": "dim"}


def best_table(view: View, found: Best) -> "RenderableType":
    """The best trials with their change against the untouched model."""
    from rich.console import Group
    from rich.text import Text

    if not found.trials:
        return Text(f"{view.study.name}: {found.note}")
    title = f"{view.study.name}: {len(found.trials)} of {len(view.trials)} trials"
    table = result_table(view, found.trials, title)
    return Group(table, Text(found.note, style="yellow")) if found.note else table


def result_table(view: View, shown: Iterable[Result], title: str) -> "Table":
    """Results as a table, below the untouched model's."""
    from rich import box
    from rich.table import Table

    names = view.study.metrics_measured
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names:
        table.add_column(_heading(view.study, name), justify="right", no_wrap=True)
    table.add_column("what was done", overflow="fold")
    table.add_column("", style="dim")
    trials = [one for one in shown if not one.is_baseline]
    for one in rows(view, [*view.results[:1], *trials]):
        values = [_text(one.cells.get(name)) for name in names]
        style = "" if one.number else "dim"
        table.add_row(one.name, *values, _plain(one.done), _plain(one.mark), style=style)
    return table


def _heading(study: Study, metric: str) -> str:
    return f"{metric}\n({study.objectives[metric]})" if metric in study.objectives else metric


def _text(cell: Cell | None) -> "Text":
    from rich.text import Text

    if cell is None:
        return Text("")
    return Text(cell.text).append(f"  {cell.change}" if cell.change else "", COLOURS[cell.sign])


def _plain(text: str) -> "Text":
    """Words that are not ours, in which brackets mean nothing."""
    from rich.text import Text

    return Text(text)


def best_table_markdown(view: View, found: Best) -> str:
    """The best trials as MLflow's pages show them."""
    names = view.study.metrics_measured
    lines = [f"*{found.note}*", ""] if found.note else []
    lines += [_line(["trial", *names, "what was done", "mark"]), _line(["---"] * (len(names) + 3))]
    for one in best_rows(view, found):
        values = [str(one.cells.get(name, "")) for name in names]
        lines.append(_line([one.name, *values, one.done, one.mark]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    """A row of Markdown, whose words may hold what ends a cell."""
    safe = (" ".join(cell.split()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(safe)} |"


def status_lines(view: View) -> list[str]:
    """How far a study is, in lines."""
    counts = view.counts
    said = [f"{counts[name]} {name}" for name in ("finished", "failed", "running", "waiting")]
    planned = f"of {counts['planned']} trials" if counts["planned"] else "trials"
    again = f", {counts['repeats']} repeats beside them" if counts["repeats"] else ""
    lines = [f"{view.study.name}: {view.state}", f"  {', '.join(said)} {planned}{again}"]
    if view.notes.get("exhausted"):
        lines.append("  the space is exhausted: it has no further model")
    if view.driver:
        lines.append(f"  run by {view.driver}")
    found = best(view)
    lines += [f"  {found.note}"] if found.note else [f"  best: {headline(view, found.trials[0])}"]
    return lines


def headline(view: View, result: Result) -> str:
    """A trial in a line, its metrics with their change."""
    found = row(view, result)
    values = ", ".join(f"{name} {cell}" for name, cell in found.cells.items())
    return f"{result.name}: {values}; {found.done}"
