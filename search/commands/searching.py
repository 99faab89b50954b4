"""`launch` and `resume`: run a study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.commands.options import (
    Cpus,
    Gpus,
    Hours,
    Ledger,
    Name,
    Storage,
    Trials,
    Workers,
    runs_at,
    store_of,
    use_ledger,
)
from search.terminal import quiet_libraries, say
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from search.study.schema import Study


def launch(
    study: Annotated[Path | None, typer.Argument(help="The study file (TOML).")] = None,
    trials: Trials = None,
    hours: Hours = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    workers: Workers = None,
    naive: Annotated[
        bool, typer.Option("--naive", help="Every shortcut off, to check what they give.")
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(help="The id of an MLflow run: its study anew, which tries its point first."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Say what is missing on the cluster for this study, and search nothing."
        ),
    ] = False,
    storage: Storage = None,
    mlflow: Ledger = None,
) -> None:
    """Run a study; launched again, it goes on where it was interrupted."""
    from search.study.load import storage_overrides
    from search.study.routing import load_either

    overrides = _given(trials, hours, cpus, gpus, workers) | storage_overrides(storage)
    use_ledger(mlflow)
    if (study is None) == (like is None):
        raise UserError("launch", allowed="a study file, or --like RUN_ID")
    if study is not None:
        found = load_either(study, overrides)
    else:
        from search.ledger.run_files import study_like

        found = study_like(runs_at(storage), _run_id(str(like)), overrides)
    if check:
        _check(found)
    else:
        _run(found, naive=naive)


def _check(study: "Study") -> None:
    from search.journal.store import Store
    from search.readiness.check import check

    quiet_libraries()
    if not check(study, Store.of(study), lambda one: say(one.line())):
        raise SystemExit(1)


def _run_id(text: str) -> str:
    from search.ledger.run_ids import RUN_ID

    if not RUN_ID.fullmatch(text):
        raise UserError("--like", got=text, allowed="a run's id, 32 digits and letters a to f")
    return text


def resume(
    name: Name,
    trials: Trials = None,
    hours: Hours = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    workers: Workers = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Run again what failed for reasons outside the candidate: workers that died, time "
            "limits, mistakes in code. Lack of memory is the candidate's own.",
        ),
    ] = False,
    storage: Storage = None,
) -> None:
    """Go on with an interrupted study as it was launched, or with more trials or other workers."""
    from search.journal.view import saved_toml
    from search.study.routing import parse_either

    store = store_of(name, storage)
    text = saved_toml(store)
    given = _given(trials, hours, cpus, gpus, workers)
    here = given | {"storage.folder": str(store.folder)}  # it may have moved
    _run(parse_either(text, str(store.toml), here), retry=retry_failed)


def _given(
    trials: int | None,
    hours: float | None,
    cpus: int | None,
    gpus: float | None,
    workers: int | None,
) -> dict[str, Any]:
    """What the command line says in place of the study file; None: nothing."""
    budget = {"budget.trials": trials, "budget.hours": hours}
    wanted = {"cpus": cpus, "gpus": gpus, "workers": workers}
    return budget | {f"resources.{name}": value for name, value in wanted.items()}


def _run(study: "Study", *, naive: bool = False, retry: bool = False) -> None:
    from search.run import run

    if study.route is None:
        run(study, naive=naive, retry=retry)
        return
    from search.routing.stages import run_stages

    run(study, stages=run_stages)
