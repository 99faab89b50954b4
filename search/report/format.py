"""Numbers, parameters and results as people read them: one place for every table and page."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from search.journal.results import Result, Step
from search.study.database import stored
from search.study.schema import RUNS, Study
from spaces import sets
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.spec import Role

SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
Sign = Literal["better", "worse", "same"]


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


def better(study: Study, metric: str, value: float, baseline: float | None) -> Sign:
    """Whether a value is `better`, `worse` or the `same`."""
    fact = METRIC_FACTS.get(metric)
    direction = study.objectives.get(metric) or (fact.direction if fact else None)
    if baseline is None or direction is None or value == baseline:
        return "same"
    if delta(metric, value, baseline) == "=":  # as the change is shown
        return "same"
    return "better" if (value < baseline) == (direction == "min") else "worse"


def brief(params: Mapping[str, Any]) -> str:
    """Parameters in a line: `omission.skip=20,21  wanda.percent=30`."""
    return "  ".join(f"{name}={_word(value)}" for name, value in sets.read(params).items())


def story(result: Result) -> str:
    """What was done to the model, in a line: `Omission skip=20,21 > Wanda sparsity=0.3`."""
    if result.is_baseline:
        return "untouched model"
    if result.record.get("stages") is None:
        return brief(result.params)
    return " > ".join(_step(step) for step in result.stages if step.changed) or "unchanged"


def _step(step: Step) -> str:
    given = {name: value for name, value in step.settings.items() if value or value is True}
    return " ".join([step.stage, *(f"{name}={_word(v)}" for name, v in given.items())])


def settings(result: Result) -> dict[str, Any]:
    """The settings of the stages that changed the model: `Omission.skip`; repeats are numbered."""
    found: dict[str, Any] = {}
    for step in result.stages:
        if not step.changed:
            continue
        for name, value in step.settings.items():
            key, index = f"{step.stage}.{name}", 2
            while key in found:
                key, index = f"{step.stage}{index}.{name}", index + 1
            if value or value is True:
                found[key] = value
    return found


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def measured_on(study: Study, metric: str, role: Role) -> str:
    """What a metric means, and on what it is measured in a role."""
    items = f"the {getattr(study.data.items, role)} {role.replace('_', '-')} items"
    fact = METRIC_FACTS.get(metric)
    if fact is None:
        return f"the study's own, {study.metrics.get(metric, 'unknown')}; given {items}"
    where = {"weights": "of the weights, whatever the data", "items": f"on {items}"}
    size = study.data.batch_size or "as many as fit"
    batch = f"on one batch of {items}, up to {size} of them"
    timed = "; depends on the machine, taken while no other trial computes there"
    timed = timed if fact.timed else ""
    return f"{fact.meaning}; {where.get(fact.on, batch)}{timed}"


def mark(result: Result) -> str:
    """What to know of a trial besides its numbers."""
    if result.state != "complete":
        return result.reason or result.state
    if not result.feasible:
        return "misses a constraint"
    return "front" if result.on_front else ""


def storage_flag(folder: Path | str, database: str | None) -> str:
    """What commands need to find a study, without a password: ` --storage …`, or nothing where it
    lies in `runs`."""
    if Path(folder).absolute() != Path(RUNS).absolute():
        return f" --storage {shlex.quote(str(folder))}"
    return f" --storage {shlex.quote(stored(database))}" if database else ""
