"""Results as rows of cells: what every table, page, card and line is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from search.journal.confirmed import Change, Confirmed, flattered, holding, in_percent
from search.journal.results import Result
from search.journal.view import View
from search.report.best import Best, way_of
from search.report.format import Sign, better, cell, delta, mark, story
from search.study.schema import Study


@dataclass(frozen=True)
class Cell:
    """A metric's value as people read it, and how it differs from the untouched model's."""

    text: str
    change: str = ""
    sign: Sign = "same"
    between: str = ""  # the change's interval

    def __str__(self) -> str:
        told = f"{self.text} ({self.change})" if self.change else self.text
        return f"{told} {self.between}" if self.between else told


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


# -- on held-out data --------------------------------------------------------------------------


def held_out_rows(view: View, results: Iterable[Result]) -> list[Row]:
    """The untouched model and those of the results that were confirmed, on held-out data: what was
    done is by how much the search flattered them, the mark whether they hold."""
    known, shown = view.confirmed, [*view.results[:1], *results]
    there = [one for one in shown if one.number in known]
    return [_held_out(view, one, known) for one in there] if len(there) > 1 else []


def _held_out(view: View, result: Result, known: Mapping[int, Confirmed]) -> Row:
    one, study = known[result.number], view.study
    base = {} if result.is_baseline else known[0].metrics if 0 in known else {}
    plain = cells(study, one.metrics, base)
    drawn = {
        name: replace(cell, between=_between(name, one.changes.get(name)))
        for name, cell in plain.items()
    }
    if result.is_baseline:
        return Row(0, plain, "", "")
    return Row(result.number, drawn, _flattered(view, result, one), _holds(view, result, known))


def _between(metric: str, change: Change | None) -> str:
    """`[+6.0, +9.1]`, the interval of a change."""
    if change is None or change.low is None or change.high is None:
        return ""
    digits = 1 if in_percent(metric) else 3
    return f"[{change.low:+.{digits}f}, {change.high:+.{digits}f}]"


def _flattered(view: View, result: Result, one: Confirmed) -> str:
    base = view.baseline
    found = []
    for name in view.study.metrics_measured if base is not None else ():
        assert base is not None
        if (by := flattered(result, base, one, name, way_of(view, name))) is not None:
            found.append((name, f"{by:+.1f} points" if in_percent(name) else f"{by:+.3f}"))
    return found[0][1] if len(found) == 1 else ", ".join(f"{name} {by}" for name, by in found)


def _holds(view: View, result: Result, known: Mapping[int, Confirmed]) -> str:
    one, holds = known[result.number], result.number in holding(known, view.study.objectives)
    sure = f", {one.verdict}" if one.verdict in ("certain", "likely") else ""
    if not one.feasible:
        missed = [key for key, verdict in one.limits.items() if verdict == "missed"]
        return f"does not hold: misses {', '.join(missed)}"
    if result.on_front:
        return ("holds" if holds else "does not hold: another is better") + sure
    return f"better than the search saw{sure}" if holds else f"not on the front{sure}"


def unconfirmed(view: View, results: Iterable[Result]) -> list[int]:
    """Those on the front that held-out data was not looked at for, where it was for others."""
    known = view.confirmed
    return [one.number for one in results if known and one.on_front and one.number not in known]
