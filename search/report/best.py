"""The best trials, and what `best` and `status` say: data for scripts, tables, best.toml.

Needs neither torch nor ray nor mlflow, so that the answer comes within a second.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.journal.confirmed import flattered, holding
from search.journal.results import (
    Result,
    distinct,
    dominates,
    losses,
    ranked,
    timed_alike,
    undominated,
)
from search.journal.view import View
from search.study.constraints import Constraint, parse_where
from trainables.bench.metrics.catalogue import METRIC_FACTS, is_timed


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

    Where no trial meets the constraints, those that come closest. Never one that the untouched
    model dominates or is, and of trials that gave the same model only the first.
    """
    objectives = view.study.objectives
    complete = [one for one in view.results if one.state == "complete"]
    alike = timed_alike(complete, objectives)
    changed = distinct((one for one in alike if not one.is_baseline), [view.baseline])
    missed = {one.number: one.miss + _miss(one, where, view) for one in changed}
    meeting = [one for one in changed if missed[one.number] <= 0]
    better = improving(view, meeting, where)
    if not better:
        close = [] if meeting else improving(view, changed, where)
        close.sort(key=lambda one: (missed[one.number], losses(one, objectives)))
        return Best(tuple(close[: top or 3]), _why_none(view, meeting, close, where))
    if top is None:
        return Best(tuple(undominated(better, objectives)))
    layers = [one for layer in ranked(better, objectives) for one in layer]
    short = len(layers) < min(top, len(meeting))
    note = "the other trials do not improve on the untouched model" if short else None
    return Best(tuple(layers[:top]), note)


def of_confirmed(view: View) -> Best:
    """All trials that held-out data was looked at for, by the first objective."""
    known = [view.results[number] for number in view.confirmed if 0 < number < len(view.results)]
    layers = ranked([one for one in known if one.state == "complete"], view.study.objectives)
    return Best(tuple(one for layer in layers for one in layer), best(view).note)


def improving(
    view: View,
    trials: Sequence[Result],
    where: Sequence[Constraint] = (),
    objectives: Mapping[str, str] | None = None,
) -> list[Result]:
    """The trials that the untouched model does not dominate while it meets the limits as well."""
    base, goals = view.baseline, objectives or view.study.objectives
    if base is None:
        return list(trials)
    missed = base.miss + _miss(base, where, view)
    return [
        one
        for one in trials
        if missed > one.miss + _miss(one, where, view) or not dominates(base, one, goals)
    ]


def _miss(result: Result, where: Sequence[Constraint], view: View) -> float:
    """By how much a `--where` clause is missed."""
    misses = [
        limit.violation(result.metrics.get(limit.metric, math.nan), view.base.get(limit.metric))
        for limit in where
    ]
    return sum(max(0.0, miss) for miss in misses)


def is_worse(view: View, found: Mapping[str, float], than: Mapping[str, float]) -> bool:
    """Whether metrics miss a constraint that others meet, or are behind in the first objective
    that tells them apart, times aside."""
    for limit in view.study.limits:
        name, base = limit.metric, view.base.get(limit.metric)
        if name in found and (base is not None or not limit.relative):
            missed, before = (limit.violation(one[name], base) for one in (found, than))
            if missed > 0 >= before:
                return True
    for name, direction in view.study.objectives.items():
        if found[name] != than[name] and not is_timed(name):
            return (found[name] > than[name]) == (direction == "min")
    return False


def _why_none(
    view: View, meeting: Sequence[Result], close: Sequence[Result], where: Sequence[Constraint]
) -> str:
    complete = [one for one in view.trials if one.state == "complete"]
    if not complete:
        return "no trial has finished yet"
    if meeting or not distinct(complete, [view.baseline]):
        return "no trial improves on the untouched model"
    limits = [f"{limit.metric} {limit.text}" for limit in where]
    own = [key for key in {key: 0 for one in complete for key in one.violations}]
    end = "; these come closest" if close else ", and none improves on the untouched model"
    return f"no trial meets {' and '.join([*own, *limits])}{end}"


# -- for scripts -------------------------------------------------------------------------------


def best_json(view: View, found: Best, runs: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The best trials as plain data.

    Args:
        runs: trial number -> its run in the ledger, where it knows them.
    """
    runs = runs or {}
    return {
        "study": view.study.name,
        "objectives": dict(view.study.objectives),
        "note": found.note,
        "warnings": view.doubts,
        "baseline": _plain(view, view.baseline, runs) if view.baseline else None,
        "trials": [_plain(view, result, runs) for result in found.trials],
        "tables": list(view.notes.get("tables") or ()),
    }


def _plain(view: View, result: Result, runs: Mapping[int, str]) -> dict[str, Any]:
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
        "held_out": held_out_json(view, result),
    }


def held_out_json(view: View, result: Result) -> dict[str, Any] | None:
    """What held-out data says of a trial; None where it was not looked at."""
    known, base = view.confirmed, view.baseline
    if (one := known.get(result.number)) is None or base is None:
        return None
    names = view.study.metrics_measured
    rosier = {name: flattered(result, base, one, name, way_of(view, name)) for name in names}
    return {
        "metrics": dict(one.metrics),
        "changes": {name: vars(change) for name, change in one.changes.items()},
        "flattered": {name: by for name, by in rosier.items() if by is not None},
        "constraints": dict(one.limits),
        "holds": result.number in holding(known, view.study.objectives),
    }


def way_of(view: View, metric: str) -> str:
    """Whether less or more of a metric is better; less where nothing tells."""
    fact, limits = METRIC_FACTS.get(metric), view.study.constraints.get(metric, ())
    told = fact.direction if fact else "min" if all(one.at_most for one in limits) else "max"
    return view.study.objectives.get(metric) or told


def status_json(view: View) -> dict[str, Any]:
    """How far a study is, as plain data."""
    found = best(view)
    return {
        "study": view.study.name,
        "state": view.state,
        "trials": view.counts,
        "driver": view.driver,
        "parts": Counter(one.part for one in view.parts if one.ended),
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
