"""Results as tables: on a terminal, in MLflow's pages, in lines."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from search.journal.results import Result
from search.journal.view import View
from search.report.best import Best, best
from search.report.format import SIGNS, better, cell, columns, delta, mark, story
from search.study.schema import Study

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


def best_table(view: View, found: Best) -> "RenderableType":
    """The best trials with their change against the untouched model."""
    from rich.console import Group
    from rich.text import Text

    if not found.trials:
        return Text(f"{view.study.name}: {found.note}")
    title = f"{view.study.name}: {len(found.trials)} of {len(view.trials)} trials"
    table = result_table(view.study, view.results, found.trials, title)
    return Group(table, Text(found.note, style="yellow")) if found.note else table


def status_lines(view: View) -> list[str]:
    """How far a study is, in lines."""
    counts = view.counts
    said = [f"{counts[name]} {name}" for name in ("finished", "failed", "running", "waiting")]
    planned = f"of {counts['planned']} trials" if counts["planned"] else "trials"
    lines = [f"{view.study.name}: {view.state}", f"  {', '.join(said)} {planned}"]
    if view.driver:
        lines.append(f"  run by {view.driver}")
    found = best(view)
    lines += [f"  {found.note}"] if found.note else [f"  best: {headline(view, found.trials[0])}"]
    return lines


def headline(view: View, result: Result) -> str:
    """A trial in a line, its metrics with their change."""
    base = view.baseline.metrics if view.baseline else {}
    values = [
        f"{name} {cell(name, result.metrics[name])} "
        f"({delta(name, result.metrics[name], base.get(name)) or 'no baseline'})"
        for name in columns(view.study)
        if name in result.metrics
    ]
    return f"{result.name}: {', '.join(values)}; {story(result)}"


def best_table_markdown(view: View, found: Best) -> str:
    """The best trials as MLflow's pages show them."""
    names = columns(view.study)
    base = view.baseline.metrics if view.baseline else {}
    lines = [f"*{found.note}*", ""] if found.note else []
    lines.append(_line(["trial", *names, "what was done", "mark"]))
    lines.append(_line(["---"] * (len(names) + 3)))
    for one in [*view.results[:1], *found.trials]:
        values = [_with_change(name, one, base) for name in names]
        number = "base" if one.is_baseline else str(one.number)
        lines.append(_line([number, *values, story(one), mark(one)]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _with_change(name: str, result: Result, base: Mapping[str, float]) -> str:
    if name not in result.metrics:
        return ""
    text = cell(name, result.metrics[name])
    change = "" if result.is_baseline else delta(name, result.metrics[name], base.get(name))
    return f"{text} ({change})" if change else text


def result_table(
    study: Study, results: Sequence[Result], shown: Iterable[Result], title: str
) -> "Table":
    """Results as a table, below the untouched model's."""
    from rich import box
    from rich.table import Table

    base = results[0].metrics if results else {}
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("trial", justify="right")
    for metric in columns(study):
        table.add_column(_heading(study, metric), justify="right", no_wrap=True)
    table.add_column("what was done", overflow="fold")
    table.add_column("", style="dim")
    rows = [*results[:1], *(one for one in shown if not one.is_baseline)]
    for result in rows:
        values = [_value(study, name, result, base) for name in columns(study)]
        number = "base" if result.is_baseline else str(result.number)
        style = "dim" if result.is_baseline else ""
        table.add_row(number, *values, story(result), mark(result), style=style)
    return table


def _heading(study: Study, metric: str) -> str:
    return f"{metric} ({study.objectives[metric]})" if metric in study.objectives else metric


def _value(study: Study, metric: str, result: Result, base: Mapping[str, float]) -> "Text":
    from rich.text import Text

    value = result.metrics.get(metric)
    if value is None:
        return Text("")
    text = Text(cell(metric, value))
    if not result.is_baseline:
        style = SIGNS[better(study, metric, value, base.get(metric))]
        text.append(f"  {delta(metric, value, base.get(metric))}", style=style)
    return text
