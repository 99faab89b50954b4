"""A study as one page: the front, the best, the failures, what was measured, how to reproduce it.

The page holds all it needs and opens without a network.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View, read
from search.report.best import Best, best
from search.report.format import better, cell, columns, delta, mark, story
from search.report.plots import front_figure, growth_figure
from search.study.load import limits, study_toml
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


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
        best=_table(view, [*view.results[:1], *found.trials]),
        growth=_growth(view) if len(study.objectives) == 2 else "",
        failures=_failures(view),
        measured="".join(_measured(view)),
        commands=escape(_commands(view, found)),
        study=escape(study_toml(study)),
        count=len(view.trials),
        everything=_table(view, view.results),
        foot=f"Written {datetime.now():%Y-%m-%d %H:%M}, from the study's journal.",
    )


def _lead(view: View) -> str:
    study = view.study
    base = view.baseline.metrics if view.baseline else {}
    goals = ", ".join(f"{way} {name}" for name, way in study.objectives.items())
    said = f"{study.model.id} on {study.data.dataset}: {goals}"
    held = [limit.describe(base.get(limit.metric)) for limit in limits(study)]
    return escape(f"{said}, with {' and '.join(held)}." if held else f"{said}.")


def _tiles(view: View, found: Best) -> Iterator[str]:
    counts = view.counts
    done = f"{counts['finished']}" + (f" of {counts['planned']}" if counts["planned"] else "")
    yield _tile(done, f"trials finished, {counts['failed']} failed")
    shown = [one for one in found.trials if one.on_front]
    yield _tile(str(len(shown)), "models on the front besides the untouched one")
    base = view.baseline.metrics if view.baseline else {}
    for name in view.study.objectives:
        values = [one for one in found.trials if one.feasible and name in base]
        if values:
            pick = max if view.study.objectives[name] == "max" else min
            best_one = pick(values, key=lambda one: one.metrics[name])
            change = delta(name, best_one.metrics[name], base[name])
            value = f"{cell(name, best_one.metrics[name])}"
            yield _tile(value, f"best {name} ({change}), {best_one.name}")


def _tile(value: str, said: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(said)}</span></div>'


def _drawn(figure: "Figure") -> str:
    figure.update_layout(title=None, margin={"t": 40})
    text: str = figure.to_html(
        include_plotlyjs=False, full_html=False, config={"displaylogo": False, "responsive": True}
    )
    return text


def _growth(view: View) -> str:
    drawn = _drawn(growth_figure(view))
    return f'<h2>How the front grew</h2><div class="card">{drawn}</div>'


# -- tables ------------------------------------------------------------------------------------


def _table(view: View, results: Iterable[Result]) -> str:
    names = columns(view.study)
    base = view.baseline.metrics if view.baseline else {}
    heads = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    rows = "".join(_row(view, one, names, base) for one in results)
    return (
        f'<table><thead><tr><th class="number">trial</th>{heads}<th>what was done</th><th></th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(view: View, result: Result, names: list[str], base: Mapping[str, float]) -> str:
    cells = "".join(f'<td class="number">{_value(view, n, result, base)}</td>' for n in names)
    number = "untouched" if result.is_baseline else str(result.number)
    same = f" (same model as {result.same_as})" if result.same_as else ""
    kind = ' class="base"' if result.is_baseline else ""
    return (
        f'<tr{kind}><td class="number">{number}</td>{cells}<td>{escape(story(result) + same)}</td>'
        f'<td class="same">{escape(mark(result))}</td></tr>'
    )


def _value(view: View, name: str, result: Result, base: Mapping[str, float]) -> str:
    if name not in result.metrics:
        return ""
    value = result.metrics[name]
    if result.is_baseline:
        return escape(cell(name, value))
    kind = better(view.study, name, value, base.get(name))
    change = escape(delta(name, value, base.get(name)))
    return f'{escape(cell(name, value))}<span class="change {kind}">{change}</span>'


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


def _measured(view: View) -> Iterator[str]:
    study, records = view.study, [one.record for one in view.results if one.state == "complete"]
    for name in columns(study):
        fact = METRIC_FACTS.get(name)
        if fact is not None:
            unit = f" ({fact.unit})" if fact.unit else ""
            timed = "; differs a little from run to run" if fact.timed else ""
            yield _entry(name, f"{fact.meaning}{unit}{timed}")
        else:
            yield _entry(name, f"the study's own: {study.metrics.get(name, 'unknown')}")
    items = study.data.items
    yield _entry("model", f"{study.model.id}, {study.model.dtype}")
    yield _entry(
        "data",
        f"{study.data.dataset} ({study.data.task}); the search looked at {items.search} items, "
        f"calibration at {items.calibration}; {items.held_out} are held out for exports",
    )
    prints = {(k, v) for one in records for k, v in (one.get("data") or {}).items()}
    yield _entry("fingerprints", ", ".join(f"{k} {v}" for k, v in sorted(prints)) or "unknown")
    machines = Counter(_machine(one.get("hardware") or {}) for one in records)
    told = "; ".join(f"{name}: {count} trials" for name, count in machines.most_common())
    yield _entry("hardware", told or "unknown")
    yield _entry("time", _time(view))


def _machine(hardware: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in hardware.items()) or "unknown"


def _time(view: View) -> str:
    ended = [one for one in view.results if one.seconds is not None]
    total = sum(one.seconds or 0 for one in ended)
    shared = sum(one.same_as is not None for one in ended)
    said = f"{total:.0f} s of trials, {total / len(ended):.2f} s each" if ended else "unknown"
    return f"{said}; {shared} gave a model that was measured already" if shared else said


def _entry(name: str, said: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>"


def _commands(view: View, found: Best) -> str:
    name = view.study.name
    lines = [f"git checkout {view.notes['git_commit']}"] if view.notes.get("git_commit") else []
    lines += ["rayduce launch study.toml    # the study file below", f"rayduce best {name}"]
    if found.trials:
        lines.append(f"rayduce export {name} --trial {found.trials[0].number} --to DIR")
    return "\n".join(lines)
