"""Whose study it is: a claim in its storage that only the driver in charge may write past.

The lock on a PostgreSQL server is gone when its connection breaks, though the driver lives on. So
the driver also writes its name into the study, and looks for it before each write. A driver that
finds another one's claim waits to see a sign of life before it takes the study over.
"""

import contextlib
import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from search.journal.tables import Tables
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Connection

CLAIM, BEAT = "driver", "beat"  # notes of the study
PAUSE = 5.0  # seconds between two signs of life
SILENCE = 20.0  # seconds without one until a driver counts as dead


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have it
        return f"uid {os.getuid()}"


@dataclass(frozen=True)
class Driver:
    """A process that runs a study."""

    user: str = field(default_factory=_user)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(
        default_factory=lambda: datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    )
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def __str__(self) -> str:
        return f"{self.user}@{self.host} pid {self.pid} since {self.since}"

    @classmethod
    def read(cls, data: object) -> "Driver | None":
        """From a note or a file; None where it is not one."""
        wanted = {"user": str, "host": str, "pid": int, "since": str, "token": str}
        if not isinstance(data, Mapping):
            return None
        if any(not isinstance(data.get(key), kind) for key, kind in wanted.items()):
            return None
        return cls(**{key: data[key] for key in wanted})

    @property
    def dead(self) -> bool:
        """Whether it ran on this machine and is gone."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def living(notes: Mapping[str, Any]) -> Driver | None:
    """The driver of a study in a database, by its last sign of life."""
    found, beat = Driver.read(notes.get(CLAIM)), notes.get(BEAT)
    if found is None or not isinstance(beat, Mapping) or beat.get("token") != found.token:
        return None
    return found if abs(time.time() - float(beat.get("time") or 0)) < SILENCE else None


class Fence:
    """One driver's claim on a study."""

    def __init__(self, tables: Tables, name: str, me: Driver) -> None:
        self.tables, self.name, self.me = tables, name, me
        self.shared = tables.engine.name != "sqlite"  # whose file has a real lock
        self._over = threading.Event()

    def take(self) -> None:
        """Claim the study.

        Raises:
            UserError: another driver, whose lock was lost, is alive.
        """
        other = Driver.read(self._noted(CLAIM))
        if self.shared and other is not None and other.token != self.me.token:
            self._wait_for_silence(other)
        self._note(CLAIM, asdict(self.me))
        if self.shared:
            self._sign(time.time())
            threading.Thread(target=self._live, name="fence", daemon=True).start()

    def check(self, connection: "Connection") -> None:
        """Raise UserError where another driver has taken the study over.

        None does before the transaction ends, where the database can hold the claim.
        """
        found = self.tables.noted(connection, CLAIM, hold=True)
        if not isinstance(found, Mapping) or found.get("token") != self.me.token:
            raise UserError(
                f"study {self.name} was taken over by {Driver.read(found) or 'another driver'}",
                do=f"this one has ended; watch the other with `rayduce status {self.name}`",
            )

    def release(self) -> None:
        """Give the study up: the next driver need not wait."""
        if self.shared and not self._over.is_set():
            self._over.set()
            self._sign(None)

    def _wait_for_silence(self, other: Driver) -> None:
        before, until = self._beat(other), time.monotonic() + SILENCE
        while before is not None and not other.dead and time.monotonic() < until:
            time.sleep(PAUSE / 5)
            if self._beat(other) != before:
                raise busy(self.name, str(other))

    def _beat(self, driver: Driver) -> float | None:
        beat = self._noted(BEAT)
        if not isinstance(beat, Mapping) or beat.get("token") != driver.token:
            return None
        found: float | None = beat.get("time")
        return found

    def _live(self) -> None:
        while not self._over.wait(PAUSE):
            with contextlib.suppress(Exception):  # the search's own writes say what is wrong
                self._sign(time.time())

    def _sign(self, when: float | None) -> None:
        self._note(BEAT, {"token": self.me.token, "time": when})

    def _noted(self, key: str) -> Any:
        with self.tables.transaction() as connection:
            return self.tables.noted(connection, key)

    def _note(self, key: str, value: Any) -> None:
        with self.tables.transaction() as connection:
            self.tables.note(connection, key, value)


def busy(study: str, owner: str | None) -> UserError:
    """The error of a second launch."""
    return UserError(
        f"study {study} is running already: {owner or 'another process'}",
        do=f"watch it with `rayduce status {study}`, or stop it first",
    )
