"""Turns on a device: workers compute side by side, and who measures time or memory does so alone.

A worker holds the device's floor together with others while it computes, and for itself while it
measures. A gate in front of the floor keeps measurements from waiting for ever: while one waits,
nobody new comes in, and whoever computes steps aside between two batches. Both are file locks in
the machine's temporary folder, by device and user, which the system lets go when their process
dies. Who waits for another worker's result is not computing, and must be `idle`, or all would
wait in a circle; and nobody waits longer than `PATIENCE`, but goes on, and says so.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 120.0  # seconds
_PAUSE = 0.02  # seconds between two looks at a lock


@dataclass
class Turns:
    """This process's place on a device's floor."""

    device: str
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    patience: float = PATIENCE
    working: bool = False  # holds the floor together with others
    measuring: bool = False
    granted: bool = False  # measures, and nobody else computes

    def __post_init__(self) -> None:
        name = hashlib.sha256(self.device.encode()).hexdigest()[:12]
        base = self.folder / f"rayduce-{os.getuid()}-{name}"
        self._gate, self._floor = (_open(base.with_suffix(end)) for end in (".gate", ".floor"))

    def enter(self) -> None:
        """Begin to compute, side by side with others."""
        if self._wait(self._gate, fcntl.LOCK_SH):
            self._wait(self._floor, fcntl.LOCK_SH)
            _release(self._gate)
        self.working = True

    def leave(self) -> None:
        """Stop computing."""
        _release(self._floor)
        self.working = False

    def pause(self, finish: Callable[[], None]) -> None:
        """Step aside where someone waits to measure; `finish` ends what still runs."""
        if not self.working or self.measuring:
            return
        if _try(self._gate, fcntl.LOCK_SH):  # nobody does
            _release(self._gate)
            return
        finish()
        self.leave()
        self.enter()

    def claim(self) -> bool:
        """Have the device alone; whether that came true."""
        self.measuring = True
        if self.working:
            _release(self._floor)
        got_in = self._wait(self._gate, fcntl.LOCK_EX)
        self.granted = got_in and self._wait(self._floor, fcntl.LOCK_EX)
        return self.granted

    def give_back(self) -> None:
        """Let the others in again."""
        _release(self._floor)
        _release(self._gate)
        self.measuring = False
        if self.working:
            self.enter()

    def close(self) -> None:
        """Let go of everything, whatever processes were forked meanwhile."""
        for file in (self._gate, self._floor):
            if file is not None:
                _release(file)
                os.close(file)

    def _wait(self, file: int | None, kind: int) -> bool:
        until = time.monotonic() + self.patience
        while not _try(file, kind):
            if file is None or time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
        return True


def _open(path: Path) -> int | None:
    """None where the machine has no such folder to write to."""
    with contextlib.suppress(OSError):
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    return None


def _try(file: int | None, kind: int) -> bool:
    if file is None:
        return False
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:  # held by another; or a file system without locks
        return False
    return True


def _release(file: int | None) -> None:
    if file is not None:
        fcntl.flock(file, fcntl.LOCK_UN)


# -- this process --------------------------------------------------------------------------------

_here: list[Turns] = []  # of the device on which this process computes now


@contextlib.contextmanager
def computing(device: str) -> Iterator[None]:
    """While open, this process computes on a device, side by side with others.

    Args:
        device: what identifies it on this machine, for those who take turns.
    """
    turns = Turns(device)
    with _present(turns):
        turns.enter()
        yield


def pause(finish: Callable[[], None] = lambda: None) -> None:
    """A good moment for others to measure alone, such as between two batches."""
    if _here:
        _here[-1].pause(finish)


@contextlib.contextmanager
def idle() -> Iterator[None]:
    """While open, this process waits for another one and computes nothing."""
    turns = _here[-1] if _here and not _here[-1].measuring else None
    if turns is not None:
        turns.leave()
    try:
        yield
    finally:
        if turns is not None:
            turns.enter()


@contextlib.contextmanager
def alone(device: str) -> Iterator[bool]:
    """While open, nobody else computes on the device; gives whether that is so."""
    if not _here:  # a process that holds nothing yet
        with _present(Turns(device)), alone(device) as granted:
            yield granted
        return
    turns = _here[-1]
    if turns.measuring:  # inside another one
        yield turns.granted
        return
    try:
        yield turns.claim()
    finally:
        turns.give_back()


@contextlib.contextmanager
def _present(turns: Turns) -> Iterator[None]:
    _here.append(turns)
    try:
        yield
    finally:
        _here.pop()
        turns.close()
