"""The command line: `python -m search …`, installed as `rayduce`.

Only what a verb needs is imported when it runs: `status`, `best` and `--help` answer at once.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.routing.commands import app as route_app
from search.terminal import console, note, quiet_libraries, say, somebody
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from search.journal.store import Store
    from search.study.schema import Study

app = typer.Typer(
    name="rayduce",
    help="Search for the smallest, fastest model that still meets your quality bar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(route_app)

Storage = Annotated[
    str | None,
    typer.Option(
        envvar="RAYDUCE_STORAGE", help="Folder of the results, or a PostgreSQL URL. Default: runs."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Plain JSON, for scripts.")]
Name = Annotated[str, typer.Argument(help="The study's name.")]
Form = Annotated[
    Literal["plain", "exact"],
    typer.Option(
        help="What the folder holds where layers differ in width: what plain transformers loads, "
        "with the exact form in a sub-folder, or the exact form alone."
    ),
]
Trials = Annotated[int | None, typer.Option(help="Trials in all.")]
Hours = Annotated[float | None, typer.Option(help="Hours in all.")]
Cpus = Annotated[int | None, typer.Option(help="CPUs per trial.")]
Gpus = Annotated[float | None, typer.Option(help="GPUs per trial, or a share of one.")]
Workers = Annotated[int | None, typer.Option(help="Trials at a time, at most.")]
Ledger = Annotated[
    str | None,
    typer.Option("--mlflow", help="The ledger's server. Default: $MLFLOW_TRACKING_URI."),
]


@app.command()
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
    _use(mlflow)
    if (study is None) == (like is None):
        raise UserError("launch", allowed="a study file, or --like RUN_ID")
    if study is not None:
        found = load_either(study, overrides)
    else:
        from search.ledger.run_files import study_like

        found = study_like(_runs(storage), _run_id(str(like)), overrides)
    if check:
        _check(found)
    else:
        _run(found, naive=naive)


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


def _check(study: "Study") -> None:
    from search.journal.store import Store
    from search.readiness.check import check

    quiet_libraries()
    if not check(study, Store.of(study), lambda one: say(one.line())):
        raise SystemExit(1)


@app.command()
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

    store = _store(name, storage)
    text = saved_toml(store)
    given = _given(trials, hours, cpus, gpus, workers)
    here = given | {"storage.folder": str(store.folder)}  # it may have moved
    _run(parse_either(text, str(store.toml), here), retry=retry_failed)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One study; all without it.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="How the numbers of one study come about.")
    ] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """How far the studies are."""
    from search.journal.view import read, read_all
    from search.report.best import status_json
    from search.report.measured import explained
    from search.report.tables import status_lines

    if explain and (not name or as_json):
        raise UserError("--explain", allowed="with a study's name, and without --json")
    if name:
        view = read(_store(name, storage))
        told = (f"{what}: {how}" for what, how in explained(view))
        lines = list(told) if explain else status_lines(view)
        say(json.dumps(status_json(view), indent=2) if as_json else "\n".join(lines))
        return
    views, unread = read_all(*_place(storage))
    if as_json:
        found = [status_json(view) for view in views]
        found += [
            {"study": one, "state": "unreadable", "error": str(error)}
            for one, error in unread.items()
        ]
        say(json.dumps(found, indent=2))
        return
    if not views and not unread:
        say("no studies yet: rayduce launch spaces/studies/smoke.toml")
    for view in views:
        say("\n".join(status_lines(view)))
    for one, error in unread.items():
        say(f"{one}: cannot be read: {error}")


@app.command()
def best(
    name: Name,
    where: Annotated[
        str | None, typer.Option(help='Limits, such as "accuracy >= 0.92 and bytes <= 2e8".')
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="How many; default: the front.")] = None,
    storage: Storage = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow",
            help="Read the study from this MLflow server; no folder is needed.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The best trials: the front, or the best under --where."""
    if mlflow is not None:
        _use(mlflow)
        _best_of_runs(name, where, top, storage, as_json)
        return
    from search.journal.view import read
    from search.ledger.run_ids import run_ids
    from search.report.best import best as choose
    from search.report.best import best_json, where_of
    from search.report.tables import best_table

    store = _store(name, storage)
    view = read(store)
    found = choose(view, where_of(view, where), top)
    if as_json:
        say(json.dumps(best_json(view, found, run_ids(store)), indent=2))
    else:
        console().print(best_table(view, found))
        for doubt in view.doubts:
            say(f"warning: {doubt}")


def _best_of_runs(
    name: str, where: str | None, top: int | None, storage: str | None, as_json: bool
) -> None:
    from search.ledger.study_runs import read_study
    from search.report.best import best as choose
    from search.report.best import best_json, where_of
    from search.report.tables import best_table

    study = read_study(_runs(storage, name))
    found = study.whole(choose(study.view, where_of(study.view, where), top))
    if as_json:
        say(json.dumps(best_json(study.view, found, study.runs), indent=2))
        return
    console().print(best_table(study.view, found))
    say("\n".join(study.steps(found)))


@app.command()
def export(
    name: Annotated[
        str, typer.Argument(help="The study's name, or the id of a trial's MLflow run.")
    ],
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    trial: Annotated[int | None, typer.Option(help="Which trial.")] = None,
    best_by: Annotated[
        str | None, typer.Option("--best", help="The feasible trial best in this metric.")
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Also register it in MLflow under this name.")
    ] = None,
    form: Form = "plain",
    as_searched: Annotated[
        bool,
        typer.Option(
            "--as-searched",
            help="Keep Wanda as the search calibrated it. Default: block by block, as published, "
            "where that is no worse on search items.",
        ),
    ] = False,
    storage: Storage = None,
    mlflow: Ledger = None,
) -> None:
    """Rebuild a trial's model, judge it on held-out data, save and check it."""
    from search.export import export_run, export_trial
    from search.ledger.run_ids import RUN_ID

    quiet_libraries()
    _use(mlflow)
    if RUN_ID.fullmatch(name):
        if trial is not None or best_by is not None:
            raise UserError("--trial and --best choose among a study's trials; a run is one")
        told = export_run(
            _runs(storage), name, to, name=register, form=form, as_searched=as_searched, said=note
        )
    else:
        store = _store(name, storage)
        told = export_trial(
            store,
            to,
            trial=trial,
            metric=best_by,
            register=register,
            form=form,
            as_searched=as_searched,
            said=note,
        )
    say(told)


@app.command("apply")
def apply_stages(
    file: Annotated[Path, typer.Argument(help="A compression.json or trial.toml.")],
    to: Annotated[Path, typer.Option(help="The folder to make.")],
    model: Annotated[
        str | None,
        typer.Option(help="Another one than the file's: a hub id, a local folder, or asset:NAME."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Other data than the file's.")] = None,
    task: Annotated[str | None, typer.Option(help="Another task than the file's.")] = None,
    form: Form = "plain",
    storage: Storage = None,
) -> None:
    """Do a trial's stages, to its model or another one, without the study; judge, save, check."""
    from search.apply import apply_file

    folder = Path(_place(storage)[0])
    quiet_libraries()
    told = apply_file(
        file, to, model=model, dataset=dataset, task=task, folder=folder, form=form, said=note
    )
    say(told)


@app.command()
def confirm(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Measure the front, and what comes next, on held-out data: once, with intervals."""
    from search.confirm import confirm as measure
    from search.ledger.mirror import sync as bring
    from search.ledger.run_ids import run_ids
    from search.report.best import best_json, of_confirmed
    from search.report.tables import best_table

    quiet_libraries()
    store = _store(name, storage)
    view = measure(store, note)
    found = of_confirmed(view)
    if as_json:
        say(json.dumps(best_json(view, found, run_ids(store)), indent=2))
    else:
        console().print(best_table(view, found))
    try:
        bring(store)
    except UserError as error:
        note(f"warning: the ledger is behind: {error}")


@app.command()
def report(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="The page to write.")] = None,
    storage: Storage = None,
) -> None:
    """Write a page with the front, the best, the failures, and how to reproduce them."""
    from search.report.page import write_report

    store = _store(name, storage)
    say(str(write_report(store, to or store.root / "report.html")))


@app.command()
def table(
    name: Name,
    csv: Annotated[Path | None, typer.Option(help="Write all trials to this file instead.")] = None,
    storage: Storage = None,
) -> None:
    """The study as papers print it: what pruning leaves; or, where methods are compared, size,
    quality and speed of every model as it is saved."""
    from search.journal.view import read
    from search.report.across import across
    from search.report.frame import write_csv
    from search.report.papers.chains import chain_table
    from search.report.papers.comparison import comparison, is_comparison

    store = _store(name, storage)
    view = read(store)
    if csv is not None:
        say(str(write_csv(view, csv)))
    elif is_comparison(view):
        from search.compare import compare

        quiet_libraries()
        console().print(comparison(view, compare(store, view, note)))
    else:
        console().print(chain_table(view, store.results))
        for one in across(view):
            console().print(one)


@app.command()
def sync(name: Name, storage: Storage = None) -> None:
    """Bring the ledger (MLflow) up to date with the journal."""
    from search.ledger.mirror import sync as bring

    say(bring(_store(name, storage)))


@app.command()
def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where to listen on this machine.")
    ] = 5000,
    storage: Storage = None,
) -> None:
    """Open the ledger in MLflow's pages."""
    from search.ledger.ui import serve

    serve(*_place(storage), port=port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's error is one message and exit code 2."""
    somebody()
    try:
        app(args=arguments, standalone_mode=True)
    except UserError as error:
        sys.stderr.write(f"rayduce: {error}\n")
        raise SystemExit(2) from None


def command() -> None:
    """Run a command and be gone: taking torch and Ray apart takes seconds that nobody needs."""
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def _store(name: str, storage: str | None) -> "Store":
    from search.journal.store import find_store

    folder, database = _place(storage)
    return find_store(folder, name, database)


def _runs(storage: str | None, study: str = "runs") -> "Store":
    """Where a ledger lies whose studies have no folder here."""
    from search.journal.store import Store

    return Store(Path(_place(storage)[0]).expanduser().absolute(), study)


def _use(server: str | None) -> None:
    """Let --mlflow say where the ledger is."""
    if server is None:
        return
    if "://" not in server:
        raise UserError("--mlflow", got=server, allowed="a URL, such as http://head:5000")
    os.environ["MLFLOW_TRACKING_URI"] = server


def _run_id(text: str) -> str:
    from search.ledger.run_ids import RUN_ID

    if not RUN_ID.fullmatch(text):
        raise UserError("--like", got=text, allowed="a run's id, 32 digits and letters a to f")
    return text


def _place(storage: str | None) -> tuple[str, str | None]:
    """The folder and the database that --storage means."""
    from search.study.load import storage_overrides
    from search.study.schema import RUNS

    given = storage_overrides(storage)
    return given.get("storage.folder", RUNS), given.get("storage.database")
