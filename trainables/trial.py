"""One trial: a bench opened, stages done to its model, what came out measured. Knows no Ray."""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainables.bench.bench import Bench, hardware
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.metrics.race import OutOfRace, Race
from trainables.bench.models.structure import stacks
from trainables.bench.opening import open_subject
from trainables.bench.training.loop import settle_products
from trainables.core.cache import Cache
from trainables.core.errors import PlanError, placed
from trainables.core.pictures import picture_data
from trainables.core.spec import BenchSpec
from trainables.core.types import PreTrainedModel, Progress
from trainables.recover import Recover
from trainables.stage import Stage, check_order, drain, noting


def open_bench(spec: BenchSpec) -> Bench:
    """Load everything a spec names.

    Raises UserError, with one message for the user.
    """
    torch.set_num_threads(spec.threads)
    cache = Cache(Path(spec.cache), spec.cache_gb)
    device = torch.device(spec.device)
    settle_products(device)
    bench = Bench(spec, open_subject(spec, device, cache), device, cache)
    cache.release()
    return bench if spec.model.train is None else _trained(bench)


def _trained(bench: Bench) -> Bench:
    """The bench with its base model trained first: once, and then shared like any training."""
    assert bench.spec.model.train is not None
    one, stage = bench.fork(), Recover(bench.spec.model.train)
    summary = drain(stage.on(one))
    return replace(bench, base=replace(one.subject.after(stage, summary), history=()))


def run_stages(
    bench: Bench, stages: Sequence[Stage], race: Race | None = None
) -> Generator[Progress, None, dict[str, Any]]:
    """Do the stages to the bench's subject, then measure it on `search`, where all is decided.

    Args:
        race: what the model runs against; who cannot win is `pruned`.

    Yields:
        What long stages report.

    Returns:
        The record: plain data.
    """
    check_order(stages)
    began = time.perf_counter()
    done: list[dict[str, Any]] = []
    progress: list[Progress] = []
    for stage in stages:
        done.append((yield from noting(progress, _do(bench, stage))))
    staged = time.perf_counter()
    outcome = _outcome(bench, race)
    ended = time.perf_counter()
    rows = bench.base.reading.data  # the study's, whatever a student reads them as
    return {
        **outcome,
        "stages": done,
        "shape": shape(bench.model),
        "base": bench.base.lineage.base,
        "lineage": bench.subject.lineage.key,
        "seconds": {"stages": staged - began, "evaluate": ended - staged, "total": ended - began},
        "passes": bench.passes(),
        "progress": progress,
        "hardware": hardware(bench),
        "data": {role: rows.fingerprint(role) for role in ("calibration", "search")},
        "data_form": rows.description,
    }


def _outcome(bench: Bench, race: Race | None) -> dict[str, Any]:
    """What was measured, or why it was not, all of it."""
    try:
        metrics, same_as, scores, alone = bench.measure(bench.spec.objectives, race=race)
    except OutOfRace as out:
        lost = {"state": "pruned", "reason": str(out), "seen": out.seen, "share": out.share}
        return {"metrics": {}, "same_as": None} | lost
    told = {"metrics": metrics, "same_as": same_as, "scores": scores.text()}
    return told | {"alone": dict(alone)}


def _do(bench: Bench, stage: Stage) -> Generator[Progress, None, dict[str, Any]]:
    started = time.perf_counter()
    summary = yield from stage.on(bench)
    bench.subject = bench.subject.after(stage, summary)
    return {
        "stage": type(stage).__name__,
        "label": summary.label or type(stage).__name__,
        "settings": stage.settings(),
        "runtime": stage.runtime,
        "spec": stage.to_dict(),
        "effects": [effect.data() for effect in summary.effects],
        "counts": dict(summary.counts),
        "details": dict(summary.details),
        "pictures": [picture_data(picture) for picture in summary.pictures],
        "seconds": time.perf_counter() - started,
    }


def shape(model: PreTrainedModel) -> dict[str, Any]:
    """How large a model is: parameters, and blocks per stack where its family has blocks."""
    try:
        depths = [len(stack.blocks) for stack in stacks(model)]
    except PlanError:
        depths = []
    return {"parameters": count_parameters(model), "blocks": sum(depths), "stacks": depths}


def reason(error: BaseException) -> str:
    """One line for people, with the place where it happened."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {str(error).splitlines()[0]}"
    return placed(error)
