"""Where the code lies: for what counts folders, so that nobody counts them anew; its commit;
and how places are called where others read of them."""

import os
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def git_commit() -> str | None:
    """The commit of the code that runs, with a mark where files differ from it.

    Where the code came without its history (a cluster, a job), what RAYDUCE_COMMIT says.
    """
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("RAYDUCE_COMMIT") or None
    return found.stdout.strip()


def called(what: str) -> str:
    """A hub id or an asset as it is, a local path by its last part."""
    return Path(what).name if what.startswith(("/", ".", "~")) else what
