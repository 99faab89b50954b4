"""Results as rows of cells: what every table, page, card and line is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search.journal.results import Result
from search.journal.view import View
from search.report.best import Best
from search.report.format import Sign, better, cell, delta, mark, story
from search.study.schema import Study


@dataclass(frozen=True)
class Cell:
    """A metric's value as people read it, and how it differs from the untouched model's."""

    text: str
    change: str = ""
    sign: Sign = "same"

    def __str__(self) -> str:
        return f"{self.text} ({self.change})" if self.change else self.text


@dataclass(frozen=True)
class Row:
    """A trial: what it measures, what was done to the model, what else to know of it."""

    number: int
    cells: Mapping[str, Cell]
    done: str
    mark: str

    @property
    def name(self) -> str:
        return str(self.number) if self.number else "untouched"


def cells(study: Study, values: Mapping[str, float], base: Mapping[str, float]) -> dict[str, Cell]:
    """What is there of the study's metrics, in the order of its file, against the base's values."""
    return {
        name: Cell(
            cell(name, values[name]),
            delta(name, values[name], base.get(name)),
            better(study, name, values[name], base.get(name)),
        )
        for name in study.metrics_measured
        if name in values
    }


def row(view: View, result: Result) -> Row:
    """One trial's row; the untouched model's shows no change."""
    same = f" (same model as {result.same_as})" if result.same_as else ""
    base = {} if result.is_baseline else view.base
    return Row(
        result.number, cells(view.study, result.metrics, base), story(result) + same, mark(result)
    )


def rows(view: View, results: Iterable[Result]) -> list[Row]:
    """A row for each."""
    return [row(view, result) for result in results]


def best_rows(view: View, found: Best) -> list[Row]:
    """The untouched model's, then the best trials'."""
    return rows(view, [*view.results[:1], *found.trials])
