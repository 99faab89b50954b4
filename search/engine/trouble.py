"""What goes wrong around trials, told apart from trials that fail: who is to blame, what it costs.

A node without the model, a process gone wrong, a full disk are no trial's fault. The trial is
still owed, and tried again elsewhere after a pause; only where nothing else is left, or after many
such troubles in a row, does the study end, with the true reason. A trial whose workers die is
tried a few times. A second process decides where the first one may have been at fault.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRIES = 3  # a trial gets, where its workers die
DEATHS = 5  # trials in a row whose workers died: then it is not the trials
TROUBLES = 8  # in a row, that are no trial's fault: then it is all places
AGREED = 3  # second opinions in a row that were the first one: then they are no longer asked for
AT_ONE_LINE = 12  # trials in a row that one mistake in code ends, none measured yet: then all do
AT_ONE_LINE_LATER = (
    100  # the same, where others were measured, or where the candidates are to blame
)
PAUSE = 1.0  # seconds after the first trouble in a row; doubled by each further one
LONGEST = 60.0

NODE_LOST = re.compile(
    r"node (has )?died|node was (terminated|lost|drained)|node is dead|preempted|unavailable",
    re.IGNORECASE,
)
MEMORY = re.compile(r"running low on memory|out-of-memory|OutOfMemory", re.IGNORECASE)
ROUTINE = re.compile(r"Some common causes include.*|The actor died unexpectedly before.*?task\.")


@dataclass
class Troubles:
    """What went wrong so far, of one launch."""

    tries: Counter[int] = field(default_factory=Counter)  # by trial: workers that died of it
    deaths: int = 0  # trials in a row that failed since their workers died
    row: int = 0  # troubles in a row that were no trial's fault
    doubted: set[int] = field(default_factory=set)  # trials that a first process gave back
    agreed: int = 0
    rests: float = 0.0  # nothing is handed out before this moment
    line: tuple[str, str] = ("", "")  # who is to blame for the last failure, and where it was
    alike: int = 0  # failures in a row there

    def well(self, number: int) -> None:
        """A trial was measured."""
        self.row = self.deaths = self.alike = 0
        if number in self.doubted:
            self.agreed = 0

    def failed(self, number: int, record: Mapping[str, Any]) -> None:
        """A trial failed by itself."""
        self.row = self.deaths = 0
        if number in self.doubted and record.get("blame") in ("code", "process"):
            self.agreed += 1
        line = (record.get("blame", ""), record.get("where", ""))
        self.alike = self.alike + 1 if line == self.line and line[1] else 1
        self.line = line

    def hopeless(self, *, measured: bool) -> bool:
        """Whether the failures in a row are one mistake, that all trials would meet.

        Args:
            measured: whether any candidate of the study came to a result.
        """
        if self.line[0] == "code":
            return self.alike >= (AT_ONE_LINE_LATER if measured else AT_ONE_LINE)
        return self.alike >= AT_ONE_LINE_LATER and not measured

    def doubts(self, number: int) -> bool:
        """Whether a process that cannot do this trial may be at fault, and not the trial."""
        return number > 0 and number not in self.doubted and self.agreed < AGREED

    def outside(self) -> bool:
        """Something went wrong that was no trial's fault; whether to go on. What several workers
        meet at a time counts once."""
        if self.resting:
            return True
        self.row += 1
        self.rests = time.monotonic() + min(PAUSE * 2 ** (self.row - 1), LONGEST)
        return self.row < TROUBLES

    @property
    def resting(self) -> bool:
        """Whether it is better to wait a moment."""
        return time.monotonic() < self.rests


def told_death(error: BaseException | None) -> str:
    """What Ray says of a worker's death, in a line."""
    text = " ".join(str(error or "nothing is known").split())
    text = ROUTINE.sub("", text)
    return text.partition("Worker exit detail: ")[2].strip(" .") or text[:300].strip()


def node_lost(error: BaseException | None) -> bool:
    """Whether a worker went with its node."""
    return not no_memory(error) and bool(NODE_LOST.search(str(error)))


def no_memory(error: BaseException | None) -> bool:
    """Whether Ray ended a worker since its node ran out of memory."""
    found = f"{type(error).__name__}: {error}"
    return MEMORY.search(ROUTINE.sub("", " ".join(found.split()))) is not None
