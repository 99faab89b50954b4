"""Turns a trial back into a model: replay its stages, judge it once on held-out data, save, prove.

rayduce export depth --trial 12 --to smaller
rayduce export 0f3a…c2 --to smaller            # an MLflow run: no runs folder is needed
"""

import contextlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from search.journal.results import Result, distinct, losses
from search.journal.store import Store
from search.journal.view import View, read
from search.ledger.model_registry import check_name, register, register_model
from search.ledger.run_files import read_run
from search.rebuild import Plan, Said, free, make
from search.report.best import best, improving
from search.report.format import storage_flag
from search.report.model_card import FLAG
from search.study.space import load_space
from spaces import sets
from spaces.space import Space
from trainables.core.errors import UserError
from trainables.stage import Facts

if TYPE_CHECKING:
    from trainables.bench.models.save import Form
    from trainables.stage import Stage


def export_trial(
    store: Store,
    to: Path,
    *,
    trial: int | None = None,
    metric: str | None = None,
    register: str | None = None,
    form: "Form" = "plain",
    as_searched: bool = False,
    said: Said = lambda text: None,
) -> str:
    """Export one trial's model into the folder `to`; returns what to tell the user.

    Args:
        trial: its number; else `metric` or the study's first objective chooses.
        metric: the feasible trial that is best in it.
        register: also register the model in MLflow under this name.
        form: what the folder itself holds where transformers cannot build the model as it is.
        as_searched: keep Wanda as it was calibrated in the search, at once for all blocks.
        said: told of every step.

    Raises:
        UserError: no such trial, a folder that is not empty, a model that does not reload.
    """
    target = free(to)
    if register is not None:
        check_name(register)
    view = read(store)
    view.refuse_routing("rayduce route export STUDY.toml --to DIR")
    result, remark = choose(view, trial, metric)
    flag = storage_flag(store.folder, view.study.storage.database)
    again = (
        f"rayduce launch study.toml{flag}\n"
        f"rayduce export {view.study.name} --trial {result.number} --to DIR{flag}"
    )
    plan = replace(_plan(view, result, store.cache, again, as_searched), form=form)
    lines = [make(plan, target, said), remark]
    if register is not None:
        lines.append(register_model(store, view, result, target, register))
    return "\n".join(line for line in lines if line)


def export_run(
    store: Store,
    run_id: str,
    to: Path,
    *,
    name: str | None = None,
    form: "Form" = "plain",
    as_searched: bool = False,
    said: Said = lambda text: None,
) -> str:
    """Export the trial of an MLflow run from what the ledger holds of it; no journal is needed.

    Args:
        store: where the embedded ledger lies, unless MLFLOW_TRACKING_URI names a server; trials'
            shared results are looked for there.
        name: also register the model in MLflow under this name.
        form: as above.
        as_searched: keep Wanda as it was calibrated in the search.
    """
    target = free(to)
    if name is not None:
        check_name(name)
    client, view, result = read_run(store, run_id)
    _check_complete(result)
    again = f"rayduce export {run_id} --to DIR"
    plan = replace(_plan(view, result, store.cache, again, as_searched), form=form)
    lines = [make(plan, target, said)]
    if name is not None:
        lines.append(register(client, run_id, target, name))
    return "\n".join(lines)


def _plan(view: View, result: Result, cache: Path, again: str, as_searched: bool) -> Plan:
    from trainables.wanda import sequential

    stages = stages_of(view, result)
    if as_searched:
        return Plan(view, result, stages, cache, f"{again} {FLAG}")
    return Plan(view, result, stages, cache, again, instead=sequential(stages))


# -- which trial -------------------------------------------------------------------------------


def choose(view: View, trial: int | None, metric: str | None) -> tuple[Result, str]:
    """The trial to export, and a plain word where none meets the constraints."""
    if trial is not None and metric is not None:
        raise UserError("--trial and --best both name a trial", do="give one of them")
    if trial is not None:
        result = view.trial(trial)
        _check_complete(result)
        return result, "" if result.feasible else f"note: trial {trial} misses a constraint"
    found = best(view)
    if metric is not None and view.baseline is not None:
        goals = {metric: _direction(view, metric)} | dict(view.study.objectives)
        feasible = distinct([one for one in view.trials if one.feasible], [view.baseline])
        if better := improving(view, feasible, objectives=goals):
            return min(better, key=lambda one: (losses(one, goals), one.number)), ""
    if not found.trials:
        do = "choose one yourself with --trial" if view.trials else ""
        raise UserError(f"nothing to export: {found.note}", do=do)
    return found.trials[0], f"note: {found.note}" if found.note else ""


def _check_complete(result: Result) -> None:
    if result.state != "complete":
        why = f": {result.reason}" if result.reason else ""
        raise UserError(f"trial {result.number} has no model, its state is {result.state}{why}")


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


# -- its stages --------------------------------------------------------------------------------


def stages_of(view: View, result: Result) -> "list[Stage]":
    """A trial's stages, as the space makes them of its parameters.

    Raises UserError where the space asks for other parameters now.
    """
    if result.is_baseline:
        return []
    space, trial = load_space(view.study.space), optuna.trial.FixedTrial(dict(result.params))
    facts = Facts.read(view.notes.get("facts") or {"blocks": 0})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ranges that were wider then
            stages = space.stages(trial, facts)
    except UserError:
        raise
    except Exception as error:  # a space is anybody's code; FixedTrial raises ValueError
        raise _other_space(view, result, space, facts) from error
    if set(result.params) - set(trial.distributions):
        raise _other_space(view, result, space, facts)
    return stages


def _other_space(view: View, result: Result, space: Space, facts: Facts) -> UserError:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    probe = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    with contextlib.suppress(Exception):
        space.stages(probe, facts)
    asked = sets.read(dict.fromkeys(probe.distributions, 0))
    given = sets.read(dict.fromkeys(result.params, 0))
    commit = view.notes.get("git_commit")
    return UserError(
        f"{result.name}: space {view.study.space.name} asks for other parameters now",
        got=", ".join(name for name in given if name not in asked) or ", ".join(given),
        allowed=", ".join(asked),
        do=f"export with the code of its search{f', commit {commit}' if commit else ''}",
    )
