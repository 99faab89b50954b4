"""A study as one page: the front, the best, the failures, what was measured, how to reproduce it.

The page holds all it needs and opens without a network.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, losses
from search.journal.store import Store
from search.journal.view import View, read
from search.report.across import across_text
from search.report.best import Best, best, of_confirmed
from search.report.format import storage_flag, story
from search.report.measured import explained
from search.report.pictures import picture_svg, pictures
from search.report.plots import front_figure, growth_figure
from search.report.rows import Cell, Row, best_rows, held_out_rows, row, rows
from search.report.tables import DONE, own_tables, unconfirmed_note
from search.study.load import study_toml
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PICTURED = 5  # of the best trials, the first of those that have pictures


def write_report(store: Store, to: Path) -> Path:
    """Write a study's page; returns where it is."""
    view = read(store)
    if not any(result.ended for result in view.results):
        raise UserError(f"study {store.study} has no results yet", do="wait for the first trial")
    target = to.expanduser().absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(view), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error
    return target


def page(view: View) -> str:
    """The page's text."""
    from plotly.offline import get_plotlyjs

    found, study = best(view), view.study
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    several = len(study.objectives) > 1
    return template.substitute(
        plotly=get_plotlyjs(),
        title=escape(study.name),
        state=view.state,
        lead=_lead(view),
        note=f'<p class="note">{escape(found.note)}</p>' if found.note else "",
        tiles="".join(_tiles(view, found)),
        front_title="The front" if several else "The course of the search",
        front=_drawn(front_figure(view)),
        best=_table(view, best_rows(view, found)),
        confirmed=_confirmed(view, found) + "".join(map(_own, own_tables(view))),
        pictures="".join(_pictures(found)),
        across=_across(view),
        growth=_growth(view) if len(study.objectives) == 2 else "",
        failures=_failures(view),
        measured="".join(_entry(name, said) for name, said in explained(view)),
        commands=escape(_commands(view, found)),
        study=escape(study_toml(study)),
        count=len(view.trials),
        everything=_table(view, rows(view, view.results)),
        foot=f"Written {datetime.now():%Y-%m-%d %H:%M}, from the study's journal.",
    )


def _lead(view: View) -> str:
    study = view.study
    goals = ", ".join(f"{way} {name}" for name, way in study.objectives.items())
    said = f"{study.model.id} on {study.data.dataset}: {goals}"
    held = [limit.describe(view.base.get(limit.metric)) for limit in study.limits]
    return escape(f"{said}, with {' and '.join(held)}." if held else f"{said}.")


def _tiles(view: View, found: Best) -> Iterator[str]:
    counts = view.counts
    done = f"{counts['finished']}" + (f" of {counts['planned']}" if counts["planned"] else "")
    again = f", {counts['repeats']} repeats" if counts["repeats"] else ""
    yield _tile(done, f"trials finished, {counts['failed']} failed{again}")
    shown = [one for one in found.trials if one.on_front]
    yield _tile(str(len(shown)), "models on the front besides the untouched one")
    feasible = [one for one in found.trials if one.feasible]
    for name, way in view.study.objectives.items() if feasible else ():
        chosen = _best_in(feasible, {name: way})
        cell = row(view, chosen).cells[name]
        change = f" ({cell.change})" if cell.change else ""
        yield _tile(cell.text, f"best {name}{change}, {chosen.name}")


def _best_in(trials: Sequence[Result], objective: Mapping[str, str]) -> Result:
    return min(trials, key=lambda one: losses(one, objective))


def _tile(value: str, said: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(said)}</span></div>'


def _drawn(figure: "Figure") -> str:
    figure.update_layout(title=None, margin={"t": 40})
    text: str = figure.to_html(
        include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True}
    )
    return text


def _across(view: View) -> str:
    text = across_text(view)
    return f"<h2>Across trials</h2><pre>{escape(text)}</pre>" if text else ""


def _growth(view: View) -> str:
    drawn = _drawn(growth_figure(view))
    return f'<h2>How the front grew</h2><div class="card">{drawn}</div>'


def _pictures(found: Best) -> Iterator[str]:
    """What the stages of the best trials have to show."""
    shown = [(one, pictures(one.record)) for one in found.trials]
    shown = [(one, drawn) for one, drawn in shown if drawn][:PICTURED]
    if shown:
        yield "<h2>What the best trials show</h2>"
    for index, (one, drawn) in enumerate(shown):
        svgs = "".join(f"<figure>{picture_svg(picture)}</figure>" for picture in drawn)
        head = f"<summary>{escape(one.name)}: {escape(story(one))}</summary>"
        opened = "" if index else " open"
        yield f'<details{opened}>{head}<div class="card pictures">{svgs}</div></details>'


# -- tables ------------------------------------------------------------------------------------


def _confirmed(view: View, found: Best) -> str:
    """What held-out data says of the best, and of others that it was looked at for."""
    there = {one.number for one in found.trials}
    others = [one for one in of_confirmed(view).trials if one.number not in there]
    if not (held := held_out_rows(view, [*found.trials, *others])):
        return ""
    missing = unconfirmed_note(view, found)
    note = f'<p class="note">{escape(missing)}</p>' if missing else ""
    said = (
        "Measured once, on items that chose nothing. The intervals hold 95 % of the draws of a "
        "paired bootstrap against the untouched model; a limit is certain where 97.5 % of the "
        "draws meet it, likely where the number does. Flattered: by how much the search's change "
        "was rosier."
    )
    table = _table(view, held, "flattered by")
    return (
        f'<h2>On held-out data</h2>{note}<p class="soft">{said}</p><div class="card">{table}</div>'
    )


def _own(found: Mapping[str, Any]) -> str:
    """A table of the study's own."""
    heads = "".join(f'<th class="number">{escape(head)}</th>' for head in found["heads"])
    rows = "".join(
        "<tr>" + "".join(f'<td class="number">{escape(word)}</td>' for word in words) + "</tr>"
        for words in found["rows"]
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<h2>{escape(found["title"])}</h2><div class="card">{table}</div>'


def _table(view: View, shown: Sequence[Row], done: str = DONE) -> str:
    names = view.study.metrics_measured
    heads = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    body = "".join(_row(one, names) for one in shown)
    return (
        f'<table><thead><tr><th class="number">trial</th>{heads}<th>{done}</th><th></th>'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )


def _row(one: Row, names: Sequence[str]) -> str:
    cells = "".join(f'<td class="number">{_value(one.cells.get(name))}</td>' for name in names)
    kind = "" if one.number else ' class="base"'
    return (
        f'<tr{kind}><td class="number">{one.name}</td>{cells}<td>{escape(one.done)}</td>'
        f'<td class="same">{escape(one.mark)}</td></tr>'
    )


def _value(cell: Cell | None) -> str:
    if cell is None:
        return ""
    told = f"{cell.change} {cell.between}".strip()
    change = f'<span class="change {cell.sign}">{escape(told)}</span>' if told else ""
    return escape(cell.text) + change


def _failures(view: View) -> str:
    reasons = Counter(one.reason or "unknown" for one in view.trials if one.state == "fail")
    if not reasons:
        return '<p class="soft">None.</p>'
    numbers: dict[str, list[str]] = {}
    for one in view.trials:
        if one.state == "fail":
            numbers.setdefault(one.reason or "unknown", []).append(str(one.number))
    rows = "".join(
        f'<tr><td class="number">{count}</td><td>{escape(reason)}</td>'
        f'<td class="same">{escape(", ".join(numbers[reason]))}</td></tr>'
        for reason, count in reasons.most_common()
    )
    return (
        '<div class="card"><table><thead><tr><th class="number">how often</th><th>why</th>'
        f"<th>trials</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


# -- where it comes from -----------------------------------------------------------------------


def _entry(name: str, said: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>"


def _commands(view: View, found: Best) -> str:
    name, place = view.study.name, view.study.storage
    flag = storage_flag(place.folder, place.database)
    lines = [f"git checkout {view.notes['git_commit']}"] if view.notes.get("git_commit") else []
    lines += ["rayduce launch study.toml    # the study file below", f"rayduce best {name}{flag}"]
    if view.study.route is not None:
        lines.append(f"rayduce route export study.toml --to DIR{flag}")
    elif found.trials:
        lines.append(f"rayduce export {name} --trial {found.trials[0].number} --to DIR{flag}")
    return "\n".join(lines)
