"""Numbers, parameters and results as people read them: one place for every table and page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.study.schema import Study
from trainables.bench.metrics.catalogue import METRIC_FACTS

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
SIGNS = {"better": "green", "worse": "red", "same": "dim"}


def cell(metric: str, value: float) -> str:
    """A metric's value with its unit: `110.1M`, `0.9213`, `12.3 ms`, `513.1 MB`."""
    fact = METRIC_FACTS.get(metric)
    unit = fact.unit if fact else ""
    if unit == "B":
        return f"{scaled(value)}B" if value < 1e3 else f"{scaled(value, ' ')}B"
    if unit == "share":
        return f"{value:.4f}"
    short = scaled(value) if abs(value) >= 1e4 else f"{value:.4g}"
    return f"{short} {unit}" if unit in ("ms", "s", "1/s") else short


def scaled(value: float, gap: str = "") -> str:
    """1234567 as `1.235M`, with 4 significant digits."""
    for size, letter in SCALES:
        if abs(value) >= size * 0.99995:
            return f"{value / size:.4g}{gap}{letter}"
    return f"{value:.4g}"


def delta(metric: str, value: float, baseline: float | None) -> str:
    """The change against the baseline: `-18 %`, or for shares the difference, `-0.012`."""
    if baseline is None:
        return ""
    fact = METRIC_FACTS.get(metric)
    if fact is not None and fact.unit == "share":
        return f"{value - baseline:+.3f}" if abs(value - baseline) >= 5e-4 else "="
    if baseline == 0:
        return ""
    percent = 100 * (value - baseline) / abs(baseline)
    if abs(percent) < 0.05:
        return "="
    return f"{percent:+.0f} %" if abs(percent) >= 9.95 else f"{percent:+.1f} %"


def better(study: Study, metric: str, value: float, baseline: float | None) -> str:
    """Whether a value is `better`, `worse` or the `same`."""
    fact = METRIC_FACTS.get(metric)
    direction = study.objectives.get(metric) or (fact.direction if fact else None)
    if baseline is None or direction is None or value == baseline:
        return "same"
    return "better" if (value < baseline) == (direction == "min") else "worse"


def compact(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with sets of 0/1 given by their members, as a study's `[[first]]` takes them."""
    shown: dict[str, Any] = {}
    for name, value in params.items():
        parent, _, member = name.rpartition(".")
        if not member.isdigit() or value not in (0, 1):
            shown[name] = value
        else:
            shown.setdefault(parent, []).extend([int(member)] if value else [])
    return shown


def brief(params: Mapping[str, Any]) -> str:
    """Parameters in a line: `omission.skip=20,21  wanda.percent=30`."""
    return "  ".join(f"{name}={_word(value)}" for name, value in compact(params).items())


def story(result: Result) -> str:
    """What was done to the model, in a line: `Omission skip=20,21 > Wanda sparsity=0.3`."""
    if result.is_baseline:
        return "untouched model"
    stages = result.record.get("stages")
    if stages is None:
        return brief(result.params)
    done = [_stage(stage) for stage in stages if stage["effect"] is not None]
    return " > ".join(done) or "unchanged"


def _stage(stage: Mapping[str, Any]) -> str:
    given = {name: value for name, value in stage["settings"].items() if value or value is True}
    return " ".join([stage["stage"], *(f"{name}={_word(v)}" for name, v in given.items())])


def settings(result: Result) -> dict[str, Any]:
    """The settings of the stages that changed the model: `Omission.skip`; repeats are numbered."""
    found: dict[str, Any] = {}
    for stage in result.record.get("stages") or []:
        if stage["effect"] is None:
            continue
        for name, value in stage["settings"].items():
            key, index = f"{stage['stage']}.{name}", 2
            while key in found:
                key, index = f"{stage['stage']}{index}.{name}", index + 1
            if value or value is True:
                found[key] = value
    return found


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def columns(study: Study) -> list[str]:
    """The metrics worth a column: the objectives, then what constraints watch."""
    return list(dict.fromkeys([*study.objectives, *study.constraints, *study.metrics]))


def mark(result: Result) -> str:
    """What to know of a trial besides its numbers."""
    if result.state != "complete":
        return result.reason or result.state
    if not result.feasible:
        return "misses a constraint"
    return "front" if result.on_front else ""


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
