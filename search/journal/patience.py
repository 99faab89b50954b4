"""The one policy for a storage that does not answer: try again for a minute, then say so once.

A database that restarts, a file that another process has locked, a disk that is full for a moment:
the search waits for it. What cannot be told in time stays owed, and is told by the next launch.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from search.study.database import redacted
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import URL

T = TypeVar("T")
PATIENCE = 60.0  # seconds
LONGEST_PAUSE = 5.0

log = logging.getLogger("rayduce")


class StorageError(UserError):
    """The journal's storage is away, full, locked or gone."""


class Patience:
    """Makes calls to one storage, each again and again until it answers.

    Attributes:
        lost: why it was given up; from then on every call is tried once.
    """

    def __init__(self, storage: BaseStorage) -> None:
        url: URL | None = getattr(getattr(storage, "engine", None), "url", None)  # none in memory
        self.where = redacted(str(url)) if url is not None else "memory"
        local = url is not None and url.get_backend_name() == "sqlite"
        self.file = Path(url.database) if url is not None and local and url.database else None
        self.identity = _identity(self.file)
        self.lost: UserError | None = None

    def __call__(self, call: Callable[[], T]) -> T:
        """The call's answer.

        Raises:
            StorageError: there is none.
        """
        attempts = tenacity.Retrying(
            stop=self._enough,
            wait=tenacity.wait_exponential(multiplier=0.1, max=LONGEST_PAUSE),
            retry=tenacity.retry_if_exception(passing),
            before_sleep=self._say,
            reraise=True,
        )
        with self._told():
            return attempts(call)

    def _enough(self, state: tenacity.RetryCallState) -> bool:
        waited = state.seconds_since_start or 0.0
        return self.lost is not None or waited >= PATIENCE or self._gone()

    def _gone(self) -> bool:
        """Whether there is nothing to wait for: the file was deleted or replaced."""
        return bool(_identity(self.file) != self.identity)

    def _say(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            assert state.outcome is not None
            error = state.outcome.exception()
            log.warning("the journal does not answer, trying on: %s", cause(error))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except tuple(_failures()) as error:
            raise self._error(error) from None

    def _error(self, error: BaseException) -> UserError:
        if self._gone():
            what = f"the journal {self.file} was deleted or replaced while it was in use"
            do = "put it back and resume, or launch the study again"
            self.lost = StorageError(what, do=do)
        elif self.lost is None:
            what = f"the journal at {self.where} cannot be used: {cause(error)}"
            do = "mend that and resume: what the trials found is kept"
            self.lost = StorageError(what, do=do)
        return self.lost


def passing(error: BaseException) -> bool:
    """Whether an error may go away by itself: connections, locks, space; not what is wrong."""
    from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    if isinstance(error, StorageInternalError):
        error = error.__cause__ or error
    return isinstance(error, OperationalError | InterfaceError | InternalError | PoolTimeout)


def cause(error: BaseException | None) -> str:
    """What the database said, in a line."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _failures() -> Iterator[type[BaseException]]:
    from sqlalchemy.exc import SQLAlchemyError

    yield StorageInternalError
    yield SQLAlchemyError


def _identity(file: Path | None) -> Any:
    """Which file it is: another one may stand in its place."""
    try:
        return None if file is None else (file.stat().st_dev, file.stat().st_ino)
    except OSError:
        return "gone"
