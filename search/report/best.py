"""The best trials, and what `best` and `status` say: data for scripts, tables, best.toml.

Needs neither torch nor ray nor mlflow, so that the answer comes within a second.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli_w

from search.study.constraints import Constraint, parse_where
from search.ledger.run_ids import run_ids
from search.journal.results import Result, View, distinct, losses, ranked, undominated
from search.report.format import cell, columns, compact, delta, mark, result_table, story
from search.journal.store import Store
from search.study.load import limits

if TYPE_CHECKING:
    from rich.console import RenderableType


def where_of(view: View, text: str | None) -> tuple[Constraint, ...]:
    """A `--where` clause, checked against the metrics this study measured."""
    known = dict.fromkeys(name for one in view.results for name in one.metrics)
    return parse_where(text, tuple(known)) if text else ()


# -- the best ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The trials to choose from, and a plain word where they are not what was asked for."""

    trials: tuple[Result, ...]
    note: str | None = None


def best(view: View, where: Sequence[Constraint] = (), top: int | None = None) -> Best:
    """The front's trials by the first objective; with `top`, that many, the next fronts after it.

    Where no trial meets the constraints, those that come closest. Of trials that gave the same
    model only the first is there, and none that left the model as it was, if others did not.
    """
    objectives = view.study.objectives
    everyone = [result for result in view.trials if result.state == "complete"]
    complete = distinct(everyone, [view.baseline]) or distinct(everyone)
    missed = {one.number: one.miss + _miss(one, where, view.baseline) for one in complete}
    meeting = [one for one in complete if missed[one.number] <= 0]
    if not meeting:
        closest = sorted(complete, key=lambda one: (missed[one.number], losses(one, objectives)))
        return Best(tuple(closest[: top or 3]), _none_meets(view, complete, where))
    if top is not None:
        layers = [one for layer in ranked(meeting, objectives) for one in layer]
        return Best(tuple(layers[:top]))
    chosen = undominated(meeting, objectives)
    beaten = not where and not any(one.on_front for one in chosen)
    note = "no trial improves on the untouched model; these come closest" if beaten else None
    return Best(tuple(chosen), note)


def _miss(result: Result, where: Sequence[Constraint], baseline: Result | None) -> float:
    known = baseline.metrics if baseline else {}
    misses = [
        limit.violation(result.metrics.get(limit.metric, math.nan), known.get(limit.metric))
        for limit in where
    ]
    return sum(max(0.0, miss) for miss in misses)


def _none_meets(view: View, complete: Sequence[Result], where: Sequence[Constraint]) -> str:
    if not complete:
        return "no trial has finished yet"
    limits = [f"{limit.metric} {limit.text}" for limit in where]
    own = [key for key in {key: 0 for one in complete for key in one.violations}]
    return f"no trial meets {' and '.join([*own, *limits])}; these come closest"


# -- for scripts -------------------------------------------------------------------------------


def best_json(view: View, found: Best, store: Store | None = None) -> dict[str, Any]:
    """The best trials as plain data; run ids are those of the ledger, where it knows them."""
    runs = run_ids(store) if store else {}
    return {
        "study": view.study.name,
        "objectives": dict(view.study.objectives),
        "note": found.note,
        "baseline": _plain(view.baseline, runs) if view.baseline else None,
        "trials": [_plain(result, runs) for result in found.trials],
    }


def _plain(result: Result, runs: dict[int, str]) -> dict[str, Any]:
    return {
        "number": result.number,
        "run_id": runs.get(result.number),
        "params": dict(result.params),
        "metrics": dict(result.metrics),
        "feasible": result.feasible,
        "front": result.on_front,
        "stages": [
            {"stage": stage["stage"], "settings": stage["settings"]}
            for stage in result.record.get("stages", [])
        ],
        "lineage": result.lineage,
        "same_as": result.same_as,
    }


def status_json(view: View) -> dict[str, Any]:
    """How far a study is, as plain data."""
    found = best(view)
    return {
        "study": view.study.name,
        "state": view.state,
        "trials": view.counts,
        "driver": view.driver,
        "objectives": dict(view.study.objectives),
        "baseline": dict(view.baseline.metrics) if view.baseline else None,
        "feasible": sum(result.feasible for result in view.trials),
        "front": [result.number for result in view.trials if result.on_front],
        "best": found.trials[0].number if found.trials and not found.note else None,
        "note": found.note,
        "failures": [
            {"number": one.number, "reason": one.reason}
            for one in view.trials
            if one.state == "fail"
        ],
    }


# -- for people --------------------------------------------------------------------------------


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


# -- best.toml ---------------------------------------------------------------------------------


def best_toml(view: View, found: Best) -> str:
    """The best trials as a file to read and to search on from: `[[first]]` takes their points."""
    base = view.baseline.metrics if view.baseline else {}
    tables: dict[str, Any] = {
        "study": view.study.name,
        "note": found.note,
        "objectives": dict(view.study.objectives),
        "constraints": [limit.describe(base.get(limit.metric)) for limit in limits(view.study)],
        "baseline": dict(base),
        "trials": [_table(result) for result in found.trials],
    }
    return tomli_w.dumps(without_nones(tables))


def _table(result: Result) -> dict[str, Any]:
    return {
        "number": result.number,
        "feasible": result.feasible,
        "front": result.on_front,
        "lineage": result.lineage,
        "metrics": dict(result.metrics),
        "point": compact(result.params),
        "stages": [
            {"stage": stage["stage"], **stage["settings"]}
            for stage in result.record.get("stages", [])
        ],
    }


def without_nones(value: Any) -> Any:
    """Plain data without its Nones, which TOML has no word for."""
    if isinstance(value, dict):
        return {str(key): without_nones(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nones(item) for item in value if item is not None]
    return value
