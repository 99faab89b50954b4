"""The table that compares methods: size, quality with its interval, speed, each of the saved model.

A row is a model as it was saved, loaded and run in a fresh process (search/compare.py measures it).
What a method does not change is said in words, and so is what it takes to profit from it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.store import Store, write_text
from search.journal.view import View
from search.report.best import best
from trainables.bench.metrics.catalogue import METRIC_FACTS

if TYPE_CHECKING:
    from rich.console import Group

FILE = "comparison.json"
COSTS = (
    "parameters",
    "nonzero_parameters",
    "bytes",
    "latency_ms",
    "tokens_per_second",
    "peak_memory",
    "evaluation_seconds",
)
MOST = 16  # rows, where a study has more than so many models
_SMALLER, _FASTER = 0.98, 1.05  # what counts as a change
COMPARED = {"Distill", "Magnitude", "GradualMagnitude", "Codebook", "Quantize", "QuantizeMixed"}


@dataclass(frozen=True)
class Row:
    """One saved model beside the untouched one's, which is saved alike.

    Attributes:
        lineage: by which the row is found again.
        methods: what was done, stage by stage, as tables call it.
        runtimes: what it takes to profit from each, where there is anything to say.
        size: bytes of its weights and config on disk; memory: bytes of its weights once loaded.
        quality: the metric's value on held-out items, with its interval.
        speed: how many times as fast as the untouched model.
        same: whether the fresh process predicts what the model did before it was saved.
    """

    number: int
    lineage: str
    methods: tuple[str, ...]
    runtimes: tuple[str, ...]
    size: int
    memory: int
    quality: tuple[float, float, float]
    speed: float
    same: bool
    loads: str

    @property
    def method(self) -> str:
        return " > ".join(self.methods) or "untouched"


# -- which models ----------------------------------------------------------------------------------


def is_comparison(view: View) -> bool:
    """Whether a study's trials are of the kind that this table compares."""
    return any(step.stage in COMPARED for result in view.results for step in result.stages)


def quality_of(view: View) -> str:
    """The metric that says how good a model is: the first objective that is no cost."""
    found = [name for name in view.study.objectives if name not in COSTS]
    return (found or list(view.study.objectives))[0]


def chosen(view: View) -> list[Result]:
    """The untouched model and every completed trial with a model of its own; of many the front, and
    the best of every chain of methods."""
    done, seen = list[Result](), set[str | None]()
    for result in view.results:
        if result.state == "complete" and result.lineage not in seen:
            seen.add(result.lineage)
            done.append(result)
    if len(done) <= MOST:
        return done
    kept = {result.number: result for result in [done[0], *best(view).trials]}
    for result in _best_of_chains(view, done[1:]):
        kept.setdefault(result.number, result)
    return [kept[number] for number in sorted(kept)]


def _best_of_chains(view: View, results: Iterable[Result]) -> Iterable[Result]:
    name = quality_of(view)
    sign = -1 if view.study.objectives[name] == "max" else 1
    found: dict[tuple[str, ...], Result] = {}
    for result in sorted(results, key=lambda one: (sign * one.metrics[name], one.number)):
        found.setdefault(tuple(step.stage for step in result.stages), result)
    return found.values()


# -- what was measured before ----------------------------------------------------------------------


def read_rows(store: Store) -> list[Row]:
    """What is known; nothing where none was measured, or by an older version."""
    path = store.root / FILE
    try:
        return [_row(one) for one in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def keep_rows(store: Store, rows: Sequence[Row]) -> None:
    """For the next time."""
    write_text(store.root / FILE, json.dumps([asdict(row) for row in rows], indent=1))


def _row(data: Mapping[str, Any]) -> Row:
    lists = {name: tuple(data[name]) for name in ("methods", "runtimes", "quality")}
    return Row(**{**data, **lists})


# -- the table -------------------------------------------------------------------------------------


def comparison(view: View, rows: Sequence[Row]) -> "Group":
    """The table for people, with what no number says below it."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    metric, base = quality_of(view), rows[0]
    table = Table(title=view.study.name, box=box.SIMPLE_HEAD)
    table.add_column("trial", no_wrap=True)
    table.add_column("method", min_width=20)
    for name in ("size %", f"{metric}{_unit(metric)}", "speed", "memory %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.number or ""),
            Text(row.method),
            f"{100 * row.size / base.size:.1f}",
            _quality(metric, row.quality),
            f"{row.speed:.2f}x",
            f"{100 * row.memory / base.memory:.1f}",
        )
    return Group(table, Text("\n".join(notes(view, rows))))


def _unit(metric: str) -> str:
    fact = METRIC_FACTS.get(metric)
    return " %" if fact is not None and fact.unit == "share" else ""


def _quality(metric: str, values: tuple[float, float, float]) -> str:
    value, low, high = values
    if _unit(metric):
        return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def unchanged(row: Row, base: Row) -> list[str]:
    """Which of size, memory and latency a method leaves as they were, or makes worse."""
    found = []
    if row.size > _SMALLER * base.size:
        found.append("size")
    if row.memory > _SMALLER * base.memory:
        found.append("memory")
    if row.speed < _FASTER:
        found.append("latency" if row.speed > 1 / _FASTER else "latency (slower)")
    return found


def notes(view: View, rows: Sequence[Row]) -> list[str]:
    """How the numbers came to be, and what it takes to profit."""
    items = view.study.data.items.held_out
    lines = [
        "Each model was saved, and loaded in a fresh process: size is of its weights and config on "
        "disk, memory of its weights once loaded, speed beside the untouched model, taking turns. "
        f"{quality_of(view)}: {items} held-out items, with the 95 % interval of resampling them.",
    ]
    if wrong := [str(row.number) for row in rows if not row.same]:
        lines.append(f"NOT the same predictions after loading: trial {', '.join(wrong)}.")
    elif rows:
        lines.append("Every fresh process predicted what the model did before it was saved.")
    lines += [
        f"Trial {row.number}, {row.method}, does not change {' and '.join(stays)}."
        for row in rows[1:]
        if (stays := unchanged(row, rows[0]))
    ]
    needs: dict[str, str] = {}
    for row in rows:
        for method, runtime in zip(row.methods, row.runtimes, strict=True):
            if runtime:
                needs.setdefault(runtime, method)
    lines += [f"To profit from {method}: {runtime}." for runtime, method in needs.items()]
    return lines
