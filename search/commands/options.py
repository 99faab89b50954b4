"""Options that several commands have, and what they mean."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainables.core.errors import UserError

if TYPE_CHECKING:
    from search.journal.store import Store

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


def storage_at(storage: str | None) -> tuple[str, str | None]:
    """The folder and the database that --storage means."""
    from search.study.load import storage_overrides
    from search.study.schema import RUNS

    given = storage_overrides(storage)
    return given.get("storage.folder", RUNS), given.get("storage.database")


def store_of(name: str, storage: str | None) -> "Store":
    """Where a study lies."""
    from search.journal.store import find_store

    folder, database = storage_at(storage)
    return find_store(folder, name, database)


def runs_at(storage: str | None, study: str = "runs") -> "Store":
    """Where a ledger lies whose studies have no folder here."""
    from search.journal.store import Store

    return Store(Path(storage_at(storage)[0]).expanduser().absolute(), study)


def use_ledger(server: str | None) -> None:
    """Let --mlflow say where the ledger is."""
    if server is None:
        return
    if "://" not in server:
        raise UserError("--mlflow", got=server, allowed="a URL, such as http://head:5000")
    os.environ["MLFLOW_TRACKING_URI"] = server
