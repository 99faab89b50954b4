"""What `best` and `status` answer: plain data for scripts, tables for people, best.toml.

Needs neither torch nor ray nor mlflow, so that the answer comes within a second.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tomli_w

from search.constraints import Constraint, parse_where
from search.links import run_ids
from search.results import Best, Result, View, best
from search.show import cell, columns, compact, delta, result_table, story
from search.storage import Store
from search.study import limits

if TYPE_CHECKING:
    from rich.console import RenderableType


def where_of(view: View, text: str | None) -> tuple[Constraint, ...]:
    """A `--where` clause, checked against the metrics this study measured."""
    known = dict.fromkeys(name for one in view.results for name in one.metrics)
    return parse_where(text, tuple(known)) if text else ()


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
