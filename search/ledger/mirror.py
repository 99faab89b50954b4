"""The ledger: MLflow, kept up to date with the journal by a thread of the driver, or by `sync`.

The search never waits for it. What the ledger missed while it was down it gets later: the journal
has it all.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from search.journal.patience import cause
from search.journal.store import Store, file_url
from search.journal.view import Reader
from search.ledger.writer import Ledger
from search.study.database import hidden, redacted
from search.study.schema import Study
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAUSE = 1.0  # seconds between two updates at least, so that several trials share one
SHARE = 5  # an update that took long is followed by a pause this many times as long
RETRY = 30.0  # seconds before a ledger that does not answer is tried again

log = logging.getLogger("rayduce")


def tracking_uri(store: Store) -> str:
    """The server that MLFLOW_TRACKING_URI names, else a file beside the studies."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded(store)


def embedded(store: Store) -> str:
    """The file beside the studies."""
    return str(file_url(store.ledger))


def open_client(uri: str) -> "MlflowClient":
    """MLflow's client, without its telemetry and notices; patience for seconds, not minutes."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


def open_ledger(store: Store) -> Ledger:
    """One study's runs in the ledger in use."""
    uri = tracking_uri(store)
    store.create()
    local = uri == embedded(store)
    if local:
        _make(store)
    client = open_client(uri)
    if local and (stray := Path(uri.removeprefix("sqlite:///")).parent) != store.folder:
        with contextlib.suppress(OSError):  # MLflow makes one of the URL's own spelling
            stray.rmdir()
    return Ledger(store, client, uri, local=local)


def _make(store: Store) -> None:
    """Make the embedded ledger under another name: it takes MLflow seconds, and what a driver that
    was killed meanwhile leaves could never be opened again."""
    from filelock import FileLock

    with FileLock(store.folder / ".mlflow.lock"):
        for torn in store.folder.glob(".mlflow-*.db*"):
            torn.unlink(missing_ok=True)
        if store.ledger.exists():
            return
        fresh = store.folder / f".mlflow-{os.getpid()}.db"
        open_client(str(file_url(fresh))).search_experiments(max_results=1)
        fresh.replace(store.ledger)


def sync(store: Store) -> str:
    """Bring the ledger up to date with the journal; returns what was done, in a line.

    Raises:
        UserError: the ledger does not answer.
    """
    reader = Reader(store)
    view = reader.view()
    reader.close()
    with told(store):
        ledger = open_ledger(store)
        added = ledger.update(view, ending=view.driver is None)
    ended = sum(result.ended for result in view.trials)
    line = f"{store.study}: {ended} trials and the baseline, {added} of them new, in {ledger.name}"
    refused = [f"trial {n} was refused: {why}" for n, why in ledger.refused.items()]
    return "\n".join([line, *refused])


@contextlib.contextmanager
def told(store: Store) -> Iterator[None]:
    """What a ledger raises, as one message."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    name = redacted(tracking_uri(store))
    try:
        yield
    except SQLAlchemyError as error:
        do = "move it away: what it should hold is written anew from the journal"
        raise UserError(f"{name} is no ledger of MLflow's: {cause(error)}", do=do) from None
    except (MlflowException, OSError) as error:
        do = "check MLFLOW_TRACKING_URI, and that the server runs"
        raise UserError(f"no answer from the ledger {name}: {said(error)}", do=do) from error


def said(error: Exception) -> str:
    """An error in a line, without the passwords of addresses in it."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {hidden(lines[0])[:200]}"


class Mirror:
    """Keeps the ledger up to date while a study runs.

    What goes wrong is said once, and made up for when the ledger answers again.

    Args:
        timeout: seconds that `close` waits for what is left.
    """

    def __init__(self, study: Study, store: Store, timeout: float = 120.0) -> None:
        self.study, self.store, self.timeout = study, store, timeout
        self.error: str | None = None
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._reader: Reader | None = None
        self._ledger: Ledger | None = None

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def offer(self) -> None:
        """Say that something changed; returns at once."""
        self._wake.set()
        if self._thread is None:  # not before: importing MLflow would hold up Ray's start
            self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Begin to write what is left; nothing changes any more."""
        self._closing.set()
        self.offer()

    def close(self) -> bool:
        """Write what is left and how the study ended; whether all of it got there in time."""
        self.end()
        assert self._thread is not None
        self._thread.join(self.timeout)
        done = not self._thread.is_alive() and self.error is None
        if not done:
            log.warning("the ledger is behind; later run: rayduce sync %s", self.study.name)
        return done

    def _work(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            if not self._closing.is_set():
                self._closing.wait(self._update(ending=False))
        self._update(ending=True)
        if self._reader is not None:
            self._reader.close()

    def _update(self, *, ending: bool) -> float:
        """Bring it up to date, or note why not; returns how long to pause."""
        began = time.monotonic()
        try:
            self._reader = self._reader or Reader(self.store)
            self._ledger = self._ledger or open_ledger(self.store)
            self._ledger.update(self._reader.view(), ending=ending)
        except Exception as error:  # whatever MLflow raises must not end the search
            self._failed(error)
            return RETRY
        self.error = None
        return max(PAUSE, SHARE * (time.monotonic() - began))

    def _failed(self, error: Exception) -> None:
        self._ledger = None  # what was half done is found again by its tags
        before, self.error = self.error, said(error)
        if before is None:
            log.warning("the ledger does not answer, the search goes on: %s", self.error)
