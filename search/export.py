"""Turns a trial back into a model: replay its stages, judge it once on held-out data, save, prove.

    rayduce export depth --trial 12 --to smaller

Runs in this process, without Ray. The folder appears when everything in it is there and a fresh
process has loaded it and said the same.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from search.engine.preflight import gpu_count
from search.journal.results import Result, distinct, losses
from search.journal.store import Store
from search.journal.view import View, read
from search.ledger.model_registry import check_name, register_model
from search.report.best import best, improving
from search.report.format import story
from search.report.model_card import Export, card
from search.report.provenance import compression, trial_toml
from search.report.rows import cells
from search.study.load import study_toml
from search.study.space import load_space
from trainables.core.errors import UserError
from trainables.stage import Facts

if TYPE_CHECKING:
    from trainables.bench.bench import Bench
    from trainables.stage import Stage

Said = Callable[[str], None]


def export_trial(
    store: Store,
    to: Path,
    *,
    trial: int | None = None,
    metric: str | None = None,
    register: str | None = None,
    said: Said = lambda text: None,
) -> str:
    """Export one trial's model into the folder `to`; returns what to tell the user.

    Args:
        trial: its number; else `metric` or the study's first objective chooses.
        metric: the feasible trial that is best in it.
        register: also register the model in MLflow under this name.
        said: told of every step.

    Raises:
        UserError: no such trial, a folder that is not empty, a model that does not reload.
    """
    target = _free(to)
    if register is not None:
        check_name(register)
    view = read(store)
    result, remark = choose(view, trial, metric)
    with _building(target) as folder:
        made = _build(store, view, result, folder, said)
    lines = [_report(view, made, target), remark]
    if register is not None:
        lines.append(register_model(store, view, result, target, register))
    return "\n".join(line for line in lines if line)


def _free(to: Path) -> Path:
    target = to.expanduser().absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UserError("--to: the folder is not empty", got=str(to), do="name a new one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to: cannot make {target.parent}: {error.strerror}") from error
    return target


# -- which trial -------------------------------------------------------------------------------


def choose(view: View, trial: int | None, metric: str | None) -> tuple[Result, str]:
    """The trial to export, and a plain word where none meets the constraints."""
    if trial is not None:
        result = view.trial(trial)
        if result.state != "complete":
            why = f": {result.reason}" if result.reason else ""
            raise UserError(f"trial {trial} has no model, its state is {result.state}{why}")
        return result, "" if result.feasible else f"note: trial {trial} misses a constraint"
    found = best(view)
    if metric is not None:
        goals = {metric: _direction(view, metric)} | dict(view.study.objectives)
        feasible = distinct([one for one in view.trials if one.feasible], [view.baseline])
        if better := improving(view, feasible, objectives=goals):
            return min(better, key=lambda one: (losses(one, goals), one.number)), ""
    if not found.trials:
        do = "choose one yourself with --trial" if view.trials else ""
        raise UserError(f"nothing to export: {found.note}", do=do)
    return found.trials[0], f"note: {found.note}" if found.note else ""


def _direction(view: View, metric: str) -> str:
    from trainables.bench.metrics.catalogue import METRIC_FACTS

    if metric not in view.base:
        raise UserError("--best: not measured", got=metric, allowed=", ".join(view.base))
    fact = METRIC_FACTS.get(metric)
    direction = view.study.objectives.get(metric) or (fact.direction if fact else None)
    if direction is None:
        do = "name the trial with --trial"
        raise UserError("--best: nothing says whether more or less is better", got=metric, do=do)
    return direction


# -- the work ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place when all went well."""
    folder = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
        if target.is_dir():
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(store: Store, view: View, result: Result, folder: Path, said: Said) -> Export:
    """Replay, judge, save and prove."""
    from trainables.bench.models.save import save
    from trainables.bench.models.verify import prove
    from trainables.stage import drain
    from trainables.trial import run_stages

    said("loading the model and the data")
    opened, name = _bench(store, view), view.study.name
    said("measuring the untouched model on held-out data")
    untouched = opened.fork(f"{name}/0").measure(opened.spec.objectives, "held_out").values
    said(f"replaying {story(result)}, then measuring it on held-out data")
    bench = opened.fork(f"{name}/{result.number}")
    record = drain(
        run_stages(bench, stages_of(view, result))
    )  # decides on search, as the trial did
    held_out = bench.measure(bench.spec.objectives, "held_out").values  # once, here, nowhere else
    said("saving, and loading it in a fresh process")
    saved = save(bench.model, bench.processor, view.study.data.task, folder)
    batch = bench.data.batches("held_out")[0]
    proofs = [prove(load, folder, bench.model, batch) for load in (saved.load, saved.exact) if load]
    bench.cache.release()
    made = Export(
        result=replace(result, record={**result.record, "stages": record["stages"]}),
        held_out=held_out,
        untouched=untouched,
        lineage=record["lineage"],
        fingerprint=bench.data.fingerprint("held_out"),
        saved=saved,
        proof="; ".join(map(str, proofs)),
    )
    _explain(view, made, folder)
    return made


def _bench(store: Store, view: View) -> "Bench":
    from trainables.trial import open_bench

    spec = view.study.bench_spec(store.cache)
    if spec.device == "cuda" and not gpu_count():
        spec = spec.model_copy(update={"device": "cpu"})
    return open_bench(spec)


def stages_of(view: View, result: Result) -> "list[Stage]":
    """A trial's stages, as the space makes them of its parameters."""
    if result.is_baseline:
        return []
    space = load_space(view.study.space)
    given = optuna.trial.FixedTrial(dict(result.params))
    return space.stages(given, Facts.read(view.notes["facts"]))


def _explain(view: View, made: Export, folder: Path) -> None:
    """The files that say what the folder is."""
    told = compression(view, made.result)
    told["metrics"] |= {"held_out": made.held_out, "baseline_held_out": made.untouched}
    told["data"]["fingerprints"] |= {"held_out": made.fingerprint}
    told["load"] = {"python": made.saved.load, "plain_transformers": made.saved.plain}
    if made.saved.exact:
        told["load"]["exact"] = made.saved.exact
    files = {
        "compression.json": json.dumps(told, indent=2),
        "README.md": card(view, made),
        "study.toml": study_toml(view.study),
        "trial.toml": trial_toml(view, made.result),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    mode = (folder / "README.md").stat().st_mode
    for weights in folder.rglob("*.safetensors"):  # written for the owner's eyes alone
        weights.chmod(mode)


def _report(view: View, made: Export, target: Path) -> str:
    """What the user is told at the end."""
    lines = [f"{view.study.name}, {made.result.name}: {story(made.result)}"]
    lines += [f"note: {made.drift}"] if made.drift else []
    searched = cells(view.study, made.result.metrics, {})
    untouched = cells(view.study, made.untouched, {})
    for name, found in cells(view.study, made.held_out, {}).items():
        lines.append(
            f"  {name}: {found} held out ({searched[name]} in the search;"
            f" untouched {untouched[name]} held out)"
        )
    lines.append(f"saved to {target}; a fresh process loads it: {made.proof}")
    lines += [f"  {line}" for line in made.saved.load.format(folder=repr(str(target))).splitlines()]
    return "\n".join([*lines, made.saved.note] if made.saved.note else lines)
