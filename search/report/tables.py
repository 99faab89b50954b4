"""Rows of results on a terminal, in MLflow's pages, in lines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.view import View
from search.report.best import Best, best
from search.report.rows import Cell, Row, best_rows, held_out_rows, row, rows, unconfirmed
from search.study.schema import Study

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

DONE, HELD_OUT = "what was done", "On held-out data, with 95 % intervals"
COLOURS = {"better": "green", "worse": "red", "same": "dim"}


def best_table(view: View, found: Best) -> "RenderableType":
    """The best trials with their change against the untouched model."""
    from rich.console import Group
    from rich.text import Text

    if not found.trials:
        return Text(f"{view.study.name}: {found.note}")
    title = f"{view.study.name}: {len(found.trials)} of {len(view.trials)} trials"
    parts: list[RenderableType] = [result_table(view, found.trials, title)]
    if held := held_out_rows(view, found.trials):
        parts.append(_table(view.study, held, HELD_OUT, "flattered by"))
    parts += [own_table(one) for one in own_tables(view)]
    notes = [found.note, unconfirmed_note(view, found)]
    parts += [Text(said, style="yellow") for said in notes if said]
    return Group(*parts) if len(parts) > 1 else parts[0]


def own_tables(view: View) -> list[dict[str, Any]]:
    """What a study has to show besides its trials: `title`, `heads` and `rows` of words."""
    return list(view.notes.get("tables") or ())


def own_table(found: Mapping[str, Any]) -> "RenderableType":
    """One of those, below its title, which may be wider."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(found["heads"]):
        table.add_column(head, justify="right" if number else "left", no_wrap=not number)
    for words in found["rows"]:
        table.add_row(*map(_plain, words))
    return Group(Text(found["title"], style="bold"), table)


def unconfirmed_note(view: View, found: Best) -> str:
    """Which of the front is to be confirmed yet."""
    missing = ", ".join(map(str, unconfirmed(view, found.trials)))
    return f"not confirmed yet: {missing} (rayduce confirm {view.study.name})" if missing else ""


def result_table(view: View, shown: Iterable[Result], title: str) -> "Table":
    """Results as a table, below the untouched model's."""
    trials = [one for one in shown if not one.is_baseline]
    return _table(view.study, rows(view, [*view.results[:1], *trials]), title, DONE)


def _table(study: Study, shown: Sequence[Row], title: str, done: str) -> "Table":
    from rich import box
    from rich.table import Table

    names = study.metrics_measured
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("trial", justify="right", no_wrap=True)
    for name in names:
        table.add_column(_heading(study, name), justify="right", no_wrap=True)
    table.add_column(done, overflow="fold")
    table.add_column("", style="dim", overflow="fold")
    for one in shown:
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
    told = Text(cell.text).append(f"  {cell.change}" if cell.change else "", COLOURS[cell.sign])
    return told.append(f"\n{cell.between}", "dim") if cell.between else told


def _plain(text: str) -> "Text":
    """Words that are not ours, in which brackets mean nothing."""
    from rich.text import Text

    return Text(text)


def best_table_markdown(view: View, found: Best) -> str:
    """The best trials as MLflow's pages show them."""
    lines = [f"*{found.note}*", ""] if found.note else []
    lines += _markdown(view.study, best_rows(view, found), DONE)
    if held := held_out_rows(view, found.trials):
        lines += ["", f"{HELD_OUT}:", "", *_markdown(view.study, held, "flattered by")]
    for own in own_tables(view):
        heads = [own["heads"], ["---"] * len(own["heads"])]
        lines += ["", f"{own['title']}:", "", *map(_line, [*heads, *own["rows"]])]
    if missing := unconfirmed_note(view, found):
        lines += ["", f"*{missing}*"]
    return "\n".join(lines)


def _markdown(study: Study, shown: Sequence[Row], done: str) -> Iterator[str]:
    names = study.metrics_measured
    yield _line(["trial", *names, done, "mark"])
    yield _line(["---"] * (len(names) + 3))
    for one in shown:
        values = [str(one.cells.get(name, "")) for name in names]
        yield _line([one.name, *values, one.done, one.mark])


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
    for part in dict.fromkeys(one.part for one in view.parts):
        states = [one.ended for one in view.parts if one.part == part]
        lines.append(f"  {part}: {sum(states)} of {len(states)} done")
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
