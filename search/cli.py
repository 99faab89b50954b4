"""The command line: `python -m search …`, installed as `rayduce`."""

import os
import sys
from collections.abc import Sequence

import typer

from search.commands.models import apply, confirm, export
from search.commands.reading import best, report, status, sync, table, ui
from search.commands.searching import launch, resume
from search.routing.commands import app as route_app
from search.terminal import somebody
from trainables.core.errors import UserError

app = typer.Typer(
    name="rayduce",
    help="Search for the smallest, fastest model that still meets your quality bar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(route_app)
for verb in (launch, resume, status, best, export, apply, confirm, report, table, sync, ui):
    app.command()(verb)


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
