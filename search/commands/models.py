"""`export`, `apply` and `confirm`: build the models of trials, and judge them on held-out data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from search.commands.options import (
    Form,
    Json,
    Ledger,
    Name,
    Storage,
    runs_at,
    storage_at,
    store_of,
    use_ledger,
)
from search.terminal import console, note, quiet_libraries, say
from trainables.core.errors import UserError


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
    use_ledger(mlflow)
    if RUN_ID.fullmatch(name):
        if trial is not None or best_by is not None:
            raise UserError("--trial and --best choose among a study's trials; a run is one")
        told = export_run(
            runs_at(storage), name, to, name=register, form=form, as_searched=as_searched, said=note
        )
    else:
        store = store_of(name, storage)
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


def apply(
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

    folder = Path(storage_at(storage)[0])
    quiet_libraries()
    told = apply_file(
        file, to, model=model, dataset=dataset, task=task, folder=folder, form=form, said=note
    )
    say(told)


def confirm(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Measure the front, and what comes next, on held-out data: once, with intervals."""
    from search.confirm import confirm as measure
    from search.ledger.mirror import sync as bring
    from search.ledger.run_ids import run_ids
    from search.report.best import best_json, of_confirmed
    from search.report.tables import best_table

    quiet_libraries()
    store = store_of(name, storage)
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
