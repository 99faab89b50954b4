"""Errors a user can act on: what is wrong, what was given, what is allowed, what to do.

One family: the command line prints the message of any `UserError` alone and exits with 2.
"""

import difflib
import json
import traceback
from collections.abc import Iterable
from pathlib import Path


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


class AssetError(UserError):
    """A packaged model or data set that cannot be fetched."""


class DataError(UserError):
    """A data set that does not hold what the `[data]` table asks for."""


class ModelError(UserError):
    """A model that cannot be loaded, or not for what the study wants of it."""


class MetricError(UserError):
    """A metric that cannot be measured here, or came out as no number."""


class PlanError(UserError, ValueError):
    """A stage that cannot be done to this model, such as removing a block it does not have."""


class FieldError(UserError, ValueError):
    """A stage's field outside its range: says the field, the value and what is allowed."""

    def __init__(self, stage: object, name: str, allowed: str, *, got: object = ...) -> None:
        got = getattr(stage, name) if got is ... else got
        UserError.__init__(self, f"{type(stage).__name__}.{name} = {got!r}", allowed=allowed)


def placed(error: BaseException) -> str:
    """An error in one line, with the place where it happened."""
    said, place = " ".join(str(error).split()), line_of(error)
    return f"{type(error).__name__}: {said}{f' ({place})' if place else ''}"


def line_of(error: BaseException) -> str:
    """The file and line that raised an error; empty where it was not raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def quoted(value: object) -> str:
    """A value as a study file would write it, cut where it gets long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`did you mean "tpe"?`, or nothing when no option comes near."""
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f'did you mean "{by_lower[near[0]]}"?' if near else ""


def near(word: str, options: Iterable[str]) -> str:
    """` (did you mean "text"?)`, or nothing: the same inside a sentence."""
    hint = did_you_mean(word, options)
    return f" ({hint})" if hint else ""
