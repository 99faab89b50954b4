"""The terminal a command talks to, and the process it runs in."""

import getpass
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE = 200  # characters a line may have where nobody's window ends
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # or it tells of every retry where there is no network
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def console() -> "Console":
    """As wide as the window, or in a pipe or a log as wide as tables need."""
    from rich.console import Console

    found = Console()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = PIPE
    return found


def say(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def note(text: str) -> None:
    """Tell, beside the results, what is being done."""
    typer.echo(text, err=True)


def quiet_libraries() -> None:
    """Progress bars and notices of the libraries, off: the screen is ours."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def somebody() -> None:
    """A home and a name for a user id that has none, as in containers: libraries ask for them."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"
