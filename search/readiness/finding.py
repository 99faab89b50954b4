"""One thing that was looked at, and how it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "missing", "unknown"]
MARKS = {"ok": "ok", "warning": "!!", "missing": "NO", "unknown": "??"}


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do where it is not as it should be."""

    what: str
    level: Level
    said: str
    do: str = ""

    def line(self) -> str:
        """As people read it."""
        told = f"{MARKS[self.level]}  {self.what}: {self.said}"
        return f"{told}; {self.do}" if self.do and self.level != "ok" else told


def ready(findings: Sequence[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(one.level != "missing" for one in findings)
