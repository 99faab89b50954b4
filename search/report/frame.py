"""A study's trials as a pandas table: for notebooks and spreadsheets."""

from pathlib import Path
from typing import TYPE_CHECKING

from search.journal.view import View
from search.report.format import mark, story
from spaces import sets
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(view: View) -> "DataFrame":
    """One row per trial, the baseline first: state, mark, what was done, metrics, parameters."""
    from pandas import DataFrame

    rows = [
        {"trial": one.number, "state": one.state, "mark": mark(one), "what was done": story(one)}
        | dict(one.metrics)
        | {name: _text(value) for name, value in sets.read(one.params).items()}
        | {"seconds": one.seconds, "lineage": one.lineage, "same_as": one.same_as}
        for one in view.results
    ]
    return DataFrame(rows)


def _text(value: object) -> object:
    """A set as its members, which a spreadsheet would else show as a list."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def write_csv(view: View, to: Path) -> Path:
    """Write the table; returns where it is."""
    target = to.expanduser().absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        frame(view).to_csv(target, index=False)
    except OSError as error:
        raise UserError(f"--csv: cannot write {target}: {error.strerror}") from error
    return target
