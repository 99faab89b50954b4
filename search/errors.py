"""Errors of files and of users' own code, each in one message."""

import contextlib
from collections.abc import Iterator, Sequence

from trainables.core.errors import UserError, placed


class StudyError(UserError):
    """Everything wrong with one file, a line each."""

    def __init__(self, file: str, problems: Sequence[UserError]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{file}: {count}", *map(str, problems)]))


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """What a user's own code raises here is told as one message of it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        do = "mend it and launch again: what was found is kept"
        raise UserError(f"{what} raised {placed(error)}", do=do) from error
