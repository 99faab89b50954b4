"""Errors of files: everything wrong with one of them, in one message."""

from collections.abc import Sequence

from trainables.core.errors import UserError


class StudyError(UserError):
    """Everything wrong with one file, a line each."""

    def __init__(self, file: str, problems: Sequence[UserError]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{file}: {count}", *map(str, problems)]))
