"""The best trials, and what `best` and `status` say: data for scripts, tables, best.toml.

Needs neither torch nor ray nor mlflow, so that the answer comes within a second.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, distinct, losses, ranked, undominated
from search.journal.view import View
from search.study.constraints import Constraint, parse_where

if TYPE_CHECKING:
    pass


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
        "baseline": _plain(view.baseline, runs) if view.baseline else None,
        "trials": [_plain(result, runs) for result in found.trials],
    }


def _plain(result: Result, runs: Mapping[int, str]) -> dict[str, Any]:
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


# -- best.toml ---------------------------------------------------------------------------------
