"""Errors a user can act on: what is wrong, what was given, what is allowed, what to do.

The command line prints the message alone and exits with 2.
"""

import difflib
import json
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """One clear message instead of a traceback."""

    def __init__(self, what: str, *, got: object = None, allowed: str = "", do: str = "") -> None:
        self.what, self.got, self.allowed, self.do = what, got, allowed, do
        parts = (
            what if got is None else f"{what}: got {quoted(got)}",
            f"allowed: {allowed}" if allowed else "",
            do,
        )
        super().__init__("; ".join(part for part in parts if part))


class StudyError(UserError):
    """Everything wrong with one file, a line each."""

    def __init__(self, file: str, problems: Sequence[UserError]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{file}: {count}", *map(str, problems)]))


def quoted(value: object) -> str:
    """A value as a study file would write it, cut where it gets long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`did you mean "tpe"?`, or nothing when no option comes near."""
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f'did you mean "{by_lower[near[0]]}"?' if near else ""
