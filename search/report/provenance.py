"""The files that tell what a trial was: trial.toml for people, compression.json for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w

from search.journal.results import Result
from search.journal.view import View
from search.report.best import Best
from search.report.format import storage_flag
from search.study.schema import Study
from spaces import sets

FORMAT = 2  # of compression.json


def trial_toml(view: View, result: Result) -> str:
    """All that identifies and reproduces a trial."""
    record = result.record
    tables = {
        "study": view.study.name,
        "number": result.number,
        "state": result.state,
        "reason": result.reason,
        "feasible": result.feasible,
        "front": result.on_front,
        "lineage": result.lineage,
        "same_as": result.same_as,
        "started": result.started,
        "stopped": result.stopped,
        "git_commit": view.notes.get("git_commit"),
        "seed": view.study.seed,
        **_goals(view.study),
        "params": dict(result.params),
        "metrics": dict(result.metrics),
        "constraints": dict(result.violations),
        "seconds": record.get("seconds"),
        "model": view.study.model.model_dump(),
        "data": view.study.data.model_dump(mode="json"),
        "fingerprints": record.get("data"),
        "read_as": record.get("data_form"),
        "hardware": record.get("hardware"),
        "stages": [
            {"changed": step.changed, "seconds": stage.get("seconds"), **stage.get("spec", {})}
            for step, stage in zip(result.stages, record.get("stages") or (), strict=True)
        ],
    }
    return tomli_w.dumps(without_nones(tables))


def read_as(record: Mapping[str, Any]) -> str:
    """In which form a trial read its data: two forms of one data set give other numbers."""
    form = record.get("data_form") or {}
    told = {"windows": "text", "prompts": "questions", "images": "images"}
    return "; ".join(f"{word}: {form[name]}" for name, word in told.items() if form.get(name))


def compression(view: View, result: Result) -> dict[str, Any]:
    """What was done to which model, and what came of it."""
    study, record = view.study, result.record
    return {
        "format": FORMAT,
        "study": study.name,
        "trial": result.number,
        "seed": study.seed,
        **_goals(study),
        "model": study.model.model_dump(exclude_none=True),
        "data": study.data.model_dump(mode="json", exclude_none=True),
        "fingerprints": dict(record.get("data") or {}),
        "read_as": record.get("data_form") or {},
        "stages": record.get("stages", []),
        "lineage": result.lineage,
        "same_as": result.same_as,
        "metrics": {
            "search": dict(result.metrics),
            "baseline": dict(view.base),
        },
        "hardware": record.get("hardware"),
        "git_commit": view.notes.get("git_commit"),
        "rebuild": f"rayduce export {study.name} --trial {result.number} --to DIR"
        + storage_flag(study.storage.folder, study.storage.database),
    }


def _goals(study: Study) -> dict[str, Any]:
    """What is measured, and by whose code: enough to judge another model the same way."""
    return {
        "space": study.space.model_dump(),
        "objectives": dict(study.objectives),
        "own_metrics": dict(study.metrics),
    }


def best_toml(view: View, found: Best) -> str:
    """The best trials as a file to read and to search on from: `[[first]]` takes their points."""
    tables: dict[str, Any] = {
        "study": view.study.name,
        "note": found.note,
        "objectives": dict(view.study.objectives),
        "constraints": [limit.describe(view.base.get(limit.metric)) for limit in view.study.limits],
        "baseline": dict(view.base),
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
        "point": sets.read(result.params),
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
