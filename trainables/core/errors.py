"""Errors of the bench that a user can act on: what, got, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """One clear message instead of a traceback."""


class AssetError(BenchError):
    """A packaged model or data set that cannot be fetched."""


class DataError(BenchError):
    """A data set that does not hold what the `[data]` table asks for."""


class MetricError(BenchError):
    """A metric that cannot be measured here, or came out as no number."""


def near(word: str, options: Iterable[str]) -> str:
    """` (did you mean "text"?)`, or nothing when no option comes near."""
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f' (did you mean "{by_lower[found[0]]}"?)' if found else ""
