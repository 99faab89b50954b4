"""`status`, `best`, `report`, `table`, `sync` and `ui`: see what a study has come to."""

import json
from pathlib import Path
from typing import Annotated

import typer

from search.commands.options import (
    Json,
    Name,
    Storage,
    runs_at,
    storage_at,
    store_of,
    use_ledger,
)
from search.terminal import console, note, quiet_libraries, say
from trainables.core.errors import UserError


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
        view = read(store_of(name, storage))
        told = (f"{what}: {how}" for what, how in explained(view))
        lines = list(told) if explain else status_lines(view)
        say(json.dumps(status_json(view), indent=2) if as_json else "\n".join(lines))
        return
    views, unread = read_all(*storage_at(storage))
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
        use_ledger(mlflow)
        _best_of_runs(name, where, top, storage, as_json)
        return
    from search.journal.view import read
    from search.ledger.run_ids import run_ids
    from search.report.best import best as choose
    from search.report.best import best_json, where_of
    from search.report.tables import best_table

    store = store_of(name, storage)
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

    study = read_study(runs_at(storage, name))
    found = study.whole(choose(study.view, where_of(study.view, where), top))
    if as_json:
        say(json.dumps(best_json(study.view, found, study.runs), indent=2))
        return
    console().print(best_table(study.view, found))
    say("\n".join(study.steps(found)))


def report(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="The page to write.")] = None,
    storage: Storage = None,
) -> None:
    """Write a page with the front, the best, the failures, and how to reproduce them."""
    from search.report.page import write_report

    store = store_of(name, storage)
    say(str(write_report(store, to or store.root / "report.html")))


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

    store = store_of(name, storage)
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


def sync(name: Name, storage: Storage = None) -> None:
    """Bring the ledger (MLflow) up to date with the journal."""
    from search.ledger.mirror import sync as bring

    say(bring(store_of(name, storage)))


def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where to listen on this machine.")
    ] = 5000,
    storage: Storage = None,
) -> None:
    """Open the ledger in MLflow's pages."""
    from search.ledger.ui import serve

    serve(*storage_at(storage), port=port)
