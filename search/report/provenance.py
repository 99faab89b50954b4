"""The files that tell what a trial was: trial.toml for people, compression.json for programs."""

from typing import Any

import tomli_w

from search.report.best import without_nones
from search.journal.results import Result, View

FORMAT = 1  # of compression.json


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
        "params": dict(result.params),
        "metrics": dict(result.metrics),
        "constraints": dict(result.violations),
        "seconds": record.get("seconds"),
        "model": view.study.model.model_dump(),
        "data": view.study.data.model_dump(mode="json"),
        "fingerprints": record.get("data"),
        "hardware": record.get("hardware"),
        "stages": [_listed(stage) for stage in record.get("stages", [])],
    }
    return tomli_w.dumps(without_nones(tables))


def _listed(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage without what is only for machines."""
    return {
        "stage": stage["stage"],
        "settings": stage["settings"],
        "changed": stage["effect"] is not None,
        "seconds": stage["seconds"],
    }


def compression(view: View, result: Result) -> dict[str, Any]:
    """What was done to which model, and what came of it."""
    study, record = view.study, result.record
    return {
        "format": FORMAT,
        "study": study.name,
        "trial": result.number,
        "model": study.model.model_dump(exclude_none=True),
        "stages": record.get("stages", []),
        "lineage": result.lineage,
        "same_as": result.same_as,
        "seed": study.seed,
        "data": {"dataset": study.data.dataset, "fingerprints": record.get("data", {})},
        "metrics": {
            "search": dict(result.metrics),
            "baseline": dict(view.baseline.metrics) if view.baseline else {},
        },
        "hardware": record.get("hardware"),
        "git_commit": view.notes.get("git_commit"),
        "rebuild": f"rayduce export {study.name} --trial {result.number} --to DIR",
    }
