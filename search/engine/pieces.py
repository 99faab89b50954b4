"""Pieces of work that are no trials, done by the same workers: durably, and each once.

A program is a generator: it yields the pieces that it needs next, and goes on once all of them came
to an end, with why those failed that did. A piece's record is a file, named after all that it
depends on; a piece whose file is there is done. So what is killed at any moment goes on where it
was.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from search.engine.dispatch import Nobody, Record, Watcher, Work
from trainables.core.cache import write_durably
from trainables.core.errors import UserError, placed
from trainables.core.spec import Assignment
from trainables.core.types import Result
from trainables.stage import drain


@dataclass(frozen=True)
class Piece:
    """A call of a worker's method, and the file that its record goes to."""

    path: Path
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.path.exists()

    def record(self) -> dict[str, Any]:
        """What the method returned, with what the worker says of itself."""
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found


Key = TypeVar("Key")
Program: TypeAlias = Generator[Sequence[Piece], Mapping[Path, str], Result]


def finished(pieces: Sequence[Piece]) -> Program[list[dict[str, Any]]]:
    """Have them all done; their records.

    Raises:
        UserError: some failed; the others are kept, and the next run tries only those again.
    """
    if failed := (yield pieces):
        lines = [f"{path.stem}: {why}" for path, why in failed.items()]
        raise UserError(
            f"{len(failed)} of {len(pieces)} items failed:\n  " + "\n  ".join(lines[:10]),
            do="run the same command again: what is done stays done",
        )
    return [piece.record() for piece in pieces]


def together(programs: Mapping[Key, Program[Result]]) -> Program[dict[Key, Result]]:
    """Several programs side by side: what all of them need next is one round."""
    found: dict[Key, Result] = {}
    asked: dict[Key, Sequence[Piece]] = {}
    failed: Mapping[Path, str] | None = None
    while True:
        for name in [one for one in programs if one not in found]:
            own = {one.path for one in asked.get(name, ())}
            why = None if failed is None else {at: one for at, one in failed.items() if at in own}
            try:
                program = programs[name]
                asked[name] = next(program) if why is None else program.send(why)
            except StopIteration as end:
                found[name] = end.value
                asked.pop(name, None)
        if not asked:
            return {name: found[name] for name in programs}
        failed = yield [piece for pieces in asked.values() for piece in pieces]


@dataclass
class Pieces(Work):
    """A program's pieces, one round after the other.

    Attributes:
        root: the study's folder, below which the files lie.
        places: where they can be done; None: in this process.
        on_end: a piece has ended, and what follows from it is done.
        over: whether the program came to its end.
    """

    root: Path
    program: Program[None]
    watcher: Watcher = field(default_factory=Nobody)
    places: Any = None
    on_end: Callable[[], None] = lambda: None
    live: dict[str, Assignment] = field(default_factory=dict)
    error: UserError | None = None
    over: bool = False
    first = "the look at the model and the data"

    def __post_init__(self) -> None:
        self._round: Sequence[Piece] | None = None
        self._waiting: list[Piece] = []
        self._owed: list[Assignment] = []
        self._out: dict[int, Piece] = {}
        self._failed: dict[Path, str] = {}
        self._ended = self._numbers = 0
        self._go_on()

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def begun(self) -> bool:
        return self._ended > 0

    @property
    def measured(self) -> bool:
        return self._ended > 1

    def next(self) -> Assignment | None:
        if self._owed:
            return self._owed.pop(0)
        if not self._waiting:
            return None
        piece, number = self._waiting.pop(0), self._numbers
        self._out[number], self._numbers = piece, number + 1
        uid = str(piece.path.relative_to(self.root).with_suffix(""))
        return Assignment(number, uid, {"method": piece.method, "arguments": piece.arguments})

    def context(self, given: Assignment | None) -> dict[str, Any]:
        return {}

    def settle(self, given: Assignment, record: Record) -> None:
        piece = self._out.pop(given.number)
        if record["state"] != "complete":
            self._failed[piece.path] = str(record["reason"])
        elif not piece.done:  # a worker's disk was full, or a network file system takes its time
            write_durably(piece.path, json.dumps(record))
        self._ended += 1
        left, count = len(self._waiting) + len(self._out), len(self._round or ())
        if given.number:
            self.watcher.phase(f"{piece.path.parent.name}: {count - left} of {count}")
        if not left:
            self._go_on()
        self.on_end()

    def stop(self, given: Assignment, progress: Record) -> None:
        self.owe(given)

    def owe(self, given: Assignment) -> None:
        self._owed.append(given)

    def tick(self) -> None:
        """Nothing is due: what is done is in its files."""

    def _go_on(self) -> None:
        """On to the next pieces that are not done."""
        while not (self._waiting or self.over):
            failed, self._failed = self._failed, {}
            try:
                began = self._round is not None
                self._round = self.program.send(failed) if began else next(self.program)
            except StopIteration:
                self.over = True
                return
            self._waiting = [piece for piece in self._round if not piece.done]


def do_here(work: Pieces, make: Callable[[], Any]) -> None:
    """All of it in this process, one after the other, without Ray.

    Args:
        make: a worker; called where there is something to do.
    """
    worker = None
    while (given := work.next()) is not None:
        try:
            worker = worker or make()
            record = {"state": "complete"} | drain(worker.do(**given.params))
            write_durably(work.root / f"{given.uid}.json", json.dumps(record))
        except Exception as error:  # one bad piece ends no other
            if given.number == 0:
                raise
            record = {"state": "fail", "reason": placed(error)}
        work.settle(given, record)
