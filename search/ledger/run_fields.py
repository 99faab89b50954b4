"""What an MLflow run says of a trial or a study: name, tags, parameters, metrics, files."""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.view import View
from search.report.across import across_values
from search.report.best import best, held_out_json
from search.report.format import settings, story
from search.report.pictures import pictures_svg
from search.report.provenance import best_toml, compression, trial_toml
from search.report.rows import row
from search.study.load import study_toml
from search.study.schema import Study
from spaces import sets

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag

UID, TOKEN, PARENT = "rayduce.uid", "rayduce.study", "mlflow.parentRunId"
NOTE = "mlflow.note.content"
AT_ONCE = {"metrics": 800, "params": 100, "tags": 100}  # in a request, which holds 1000 at most
PARAM_COLUMNS = 12  # more would not be read
VIEW = "mlflow.sharedViewState."  # + the study's name: an experiment's tag; the pages open it
LONGEST = 5900  # characters of a value; MLflow takes 6000
LONGEST_NAME = 240  # of a name; MLflow takes 250
FORBIDDEN = re.compile(r"[^\w.\- :/]|(?<=/)/|^/", re.ASCII)  # in MLflow's names


# -- a trial -----------------------------------------------------------------------------------


def run_name(result: Result) -> str:
    """`012 Omission skip=20,21`: sorts by number, says what it is."""
    what = f"failed: {result.reason}" if result.state == "fail" else story(result)
    return f"{result.part and f'{result.part} '}{result.number:03d} {what}"[:120]


def tags_of(view: View, result: Result) -> dict[str, str]:
    """What to filter and group by; what is not known is left out."""
    hardware = result.record.get("hardware") or {}
    told = {
        "study": view.study.name,
        "space": view.study.space.name,
        "part": result.part,
        "state": result.state,
        "feasible": "yes" if result.feasible else "no",
        "lineage": result.lineage,
        "same_as": result.same_as,
        "hardware": ", ".join(f"{key} {value}" for key, value in hardware.items()),
        "reason": result.reason,
        NOTE: _note(view, result),
    }
    return {key: value for key, value in told.items() if value}


def _note(view: View, result: Result) -> str:
    """The description on the run's page."""
    found = row(view, result)
    changes = [f"{name} {cell.change}" for name, cell in found.cells.items() if cell.change]
    against = f"Against the untouched model: {', '.join(changes)}." if changes else ""
    return "\n\n".join(part for part in (story(result), against, result.reason) if part)


def metrics_of(result: Result) -> list["Metric"]:
    """What was measured, as the last step; before it what long stages reported on the way."""
    progress = result.record.get("progress") or []
    steps = progress if isinstance(progress, list) else [progress]
    numbers = {f"hp/{name}": _number(value) for name, value in params_of(result).items()}
    last = {**result.metrics, **numbers, "seconds": result.seconds}
    found = [
        (name, value, step)
        for step, values in enumerate([*steps, last])
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    return as_metrics(found, millis(result.stopped))


def held_out_of(view: View, result: Result) -> tuple[dict[str, float], dict[str, str]]:
    """What held-out data says of a trial, as metrics and tags; nothing where it was not looked
    at."""
    if (told := held_out_json(view, result)) is None:
        return {}, {}
    values = {f"held_out/{name}": value for name, value in told["metrics"].items()}
    values |= {f"flattered/{name}": value for name, value in told["flattered"].items()}
    for name, change in told["changes"].items():
        parts = {"change": change["value"], "low": change["low"], "high": change["high"]}
        told_parts = {part: value for part, value in parts.items() if value is not None}
        values |= {f"held_out/{name}/{part}": value for part, value in told_parts.items()}
    limits = "; ".join(f"{key}: {verdict}" for key, verdict in told["constraints"].items())
    tags = {"holds": "yes" if told["holds"] else "no", "constraints": limits}
    return values, {key: text for key, text in tags.items() if text}


def _number(value: Any) -> float | None:
    """A parameter as something to sort by: a set by its size."""
    if isinstance(value, list | tuple):
        return float(len(value))
    return float(value) if isinstance(value, int | float) else None


def params_of(result: Result) -> dict[str, Any]:
    """What was proposed, and what the stages made of it; what has one name is there once.

    Of a proposed set only its cheapest candidates may have been taken: where a stage says which,
    that counts.
    """
    proposed, done = sets.read(result.params), settings(result)
    by_name = {name.lower(): name for name in proposed}
    for step in result.stages:
        for name, value in step.settings.items():
            same = by_name.get(f"{step.stage}.{name}".lower())
            if same is not None:
                proposed.pop(same, None)
                proposed.pop(sets.count_of(same), None)
                done.setdefault(f"{step.stage}.{name}", value)
    return {**proposed, **done}


def trial_files(view: View, result: Result) -> dict[str, str]:
    """A trial's artifacts, from which it can be exported without the journal."""
    files = {
        "trial.toml": trial_toml(view, result),
        "compression.json": json.dumps(compression(view, result), indent=2),
        "study.toml": study_toml(view.study),
        "facts.json": json.dumps(view.notes.get("facts")),
    }
    if (picture := pictures_svg(result.record)) is not None:
        files["pictures.svg"] = picture
    return files


# -- a study -----------------------------------------------------------------------------------


def study_params(study: Study) -> dict[str, Any]:
    """What does not change from launch to launch."""
    return {
        "model": study.model.id,
        "dataset": study.data.dataset,
        "task": study.data.task,
        "space": study.space.name,
        "sampler": study.sampler.name,
        "seed": study.seed,
        "objectives": ", ".join(f"{name} {way}" for name, way in study.objectives.items()),
    }


def study_values(view: View, *, whole: bool = True) -> dict[str, float]:
    """The best trial's metrics, the untouched model's, and how many trials there are.

    Args:
        whole: and what shows across them, for which every record is read.
    """
    found, counts = best(view), view.counts
    told = ("finished", "repeats", "failed", "planned")
    values = {f"trials/{name}": float(counts[name] or 0) for name in told}
    values |= {f"baseline/{key}": value for key, value in view.base.items()}
    if found.trials and not found.note:
        values |= found.trials[0].metrics
    return values | (across_values(view) if whole else {})


def study_files(view: View) -> dict[str, str]:
    """A study's artifacts."""
    from search.report.pictures import front_svg
    from search.report.plots import front_html

    files = {"study.toml": study_toml(view.study), "best.toml": best_toml(view, best(view))}
    if any(result.state == "complete" for result in view.results):
        files |= {"front.html": front_html(view), "front.svg": front_svg(view)}
    return files


def shared_view(view: View) -> str:
    """MLflow's own record of a table: this study's trials, its columns, the best first."""
    first, direction = next(iter(view.study.objectives.items()))
    done = dict.fromkeys(name for one in view.trials for name in settings(one))
    proposed = dict.fromkeys(name for one in view.trials for name in params_of(one))
    chosen = [
        *(f"metrics.`{name}`" for name in view.study.metrics_measured),
        *(f"tags.`{name}`" for name in ("front", "feasible", "state", "same_as", "lineage")),
        *(f"params.`{name}`" for name in list(done or proposed)[:PARAM_COLUMNS]),
    ]
    state = {
        "searchFilter": f"tags.study = '{view.study.name}' and tags.feasible LIKE '%'",
        "orderByKey": f"metrics.`{first}`",
        "orderByAsc": direction == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": chosen,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
    }
    return json.dumps(state)


def source_tags(view: View) -> dict[str, str]:
    """Where it comes from, also in MLflow's own words."""
    commit = str(view.notes.get("git_commit") or "unknown")
    return {
        "git_commit": commit,
        "mlflow.source.name": f"rayduce launch {view.study.name}",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": commit,
    }


# -- MLflow's types ----------------------------------------------------------------------------


def allowed(names: Iterable[str]) -> dict[str, str]:
    """Names as MLflow takes them, each its own: `recall@10` becomes `recall_10`."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(dict.fromkeys(names), key=lambda name: FORBIDDEN.search(name) is not None):
        plain = FORBIDDEN.sub("_", name)[:LONGEST_NAME].strip("/") or "_"
        plain = "/".join(part if part.strip(".") else "_" for part in plain.split("/"))
        one, count = plain, 1
        while one in taken:
            count += 1
            one = f"{plain[: LONGEST_NAME - 5]}_{count}"
        found[name] = one
        taken.add(one)
    return found


def as_metrics(found: Sequence[tuple[str, float, int]], when: int) -> list["Metric"]:
    """Values: name, value, step."""
    from mlflow.entities import Metric

    names = allowed(name for name, _, _ in found)
    return [Metric(names[name], float(value), when, step) for name, value, step in found]


def as_params(values: Mapping[str, Any]) -> list["Param"]:
    """Parameters as texts; sets as their members."""
    from mlflow.entities import Param

    texts = {
        key: ",".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
        for key, value in values.items()
    }
    names = allowed(texts)
    return [Param(names[key], text[:LONGEST]) for key, text in texts.items()]


def as_tags(tags: Mapping[str, str]) -> list["RunTag"]:
    """Tags, cut to what MLflow takes."""
    from mlflow.entities import RunTag

    names = allowed(tags)
    return [RunTag(names[key], value[:LONGEST]) for key, value in tags.items()]


def requests(
    metrics: Sequence["Metric"], params: Sequence["Param"], tags: Sequence["RunTag"]
) -> Iterator[dict[str, Any]]:
    """All that a run is told, in as few requests as MLflow takes it."""
    parts = {"metrics": metrics, "params": params, "tags": tags}
    count = max(math.ceil(len(part) / AT_ONCE[name]) for name, part in parts.items())
    for n in range(count):
        yield {key: part[n * (m := AT_ONCE[key]) :][:m] for key, part in parts.items()}


def millis(when: datetime | None) -> int:
    """MLflow's time; now for None."""
    return int((when.timestamp() if when else time.time()) * 1000)
