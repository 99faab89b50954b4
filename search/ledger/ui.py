"""Opens the ledger in MLflow's pages: its server on the embedded file, or the one in use.

rayduce ui --port 5001
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from search.journal.store import Store, study_names
from search.ledger.mirror import embedded, tracking_uri
from search.ledger.run_ids import load_links
from search.study.database import redacted
from trainables.core.errors import UserError

HOST = "127.0.0.1"
PATIENCE = 180.0  # seconds until the server answers; half a minute is usual
PAGE = "{server}/#/experiments/{experiment}/runs"
QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # starts in half the time and memory
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
}


def serve(folder: str, database: str | None = None, *, port: int = 5000) -> None:
    """Show where the pages are, and serve them until interrupted where nobody else does.

    Args:
        folder: where the studies are.
        database: a journal elsewhere; the ledger is found by the folder all the same.
    """
    store = Store(Path(folder).expanduser().absolute(), "")
    uri = tracking_uri(store)
    if uri.startswith(("http://", "https://")):
        typer.echo(f"MLFLOW_TRACKING_URI names the server in use: {redacted(uri)}")
        typer.echo("\n".join(links(store, redacted(uri), uri)))
        return
    if uri == embedded(store) and not store.ledger.is_file():
        raise UserError(f"no ledger in {store.folder} yet", do="launch a study first")
    server = f"http://{HOST}:{port}"
    _check_port(port)
    typer.echo(f"starting MLflow on {redacted(uri)}")
    with _server(store, uri, port) as process:
        _wait(process, server, store.folder / "mlflow-server.log")
        typer.echo("\n".join([f"open {server}", *links(store, server, uri), "stop with Ctrl-C"]))
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()


def links(store: Store, server: str, uri: str) -> list[str]:
    """A line for each study's table, with the columns that matter, and for its own page."""
    lines = []
    for name in study_names(store.folder):
        found = load_links(Store(store.folder, name))
        if found.get("uri") == redacted(uri) and found.get("experiment"):
            lines += [
                f"  {name}",
                *(f"    {what:<7} {link}" for what, link in _pages(server, name, found)),
            ]
    return lines


def _pages(server: str, name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    page = PAGE.format(server=server.rstrip("/"), experiment=found["experiment"])
    kind = "workflowType=machine_learning"
    yield "trials:", f"{page}?viewStateShareKey={name}&{kind}"
    yield "front:", f"{page}/{found['parent']}/artifacts/front.html?{kind}"


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            do = "choose another one with --port"
            raise UserError(f"port {port} cannot be used: {error.strerror}", do=do) from error


def command(store: Store, port: int) -> list[str]:
    """MLflow's server as a command line; without the URI, which may hold a password."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--default-artifact-root", str(store.artifacts)),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]


@contextlib.contextmanager
def _server(store: Store, uri: str, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    """The server's process; what it says goes to a file."""
    with (store.folder / "mlflow-server.log").open("wb") as log:
        process = subprocess.Popen(
            command(store, port),
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **QUIET, "MLFLOW_BACKEND_STORE_URI": uri},
            cwd=store.folder,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", server: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if lines else "nothing was said"
    raise UserError(f"MLflow's server did not start: {said}", do=f"see {log}")
