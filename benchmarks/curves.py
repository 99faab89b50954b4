"""Searches compared at equal work: the best loss so far against the block-forwards spent.

`benchmarks/depth_search.py` measures; this writes curves.json, and from it the table and the plot.
"""

import base64
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHARES = (0.25, 0.5, 1.0)  # of the work


@dataclass(frozen=True)
class Curve:
    """One search: after how many block-forwards it had which best loss."""

    method: str
    seed: int
    points: Sequence[tuple[int, float]]
    loss: float  # of the best set, on the calibration text
    other_loss: float  # of the same set, on other text
    omit: Sequence[int]
    evaluated: int  # different sets

    def at(self, forwards: float) -> float | None:
        """The best loss after so much work; None before the first."""
        known = [loss for spent, loss in self.points if spent <= forwards]
        return min(known, default=None)


def read_curves(folder: Path) -> list[Curve]:
    """What `write_curves` wrote."""
    return [Curve(**row) for row in json.loads((folder / "curves.json").read_text())]


def write_curves(curves: Sequence[Curve], folder: Path) -> None:
    """curves.json and curves.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.json").write_text(json.dumps([asdict(curve) for curve in curves]))
    plot(curves, folder / "curves.png")


def write_page(folder: Path, to: Path) -> Path:
    """The table and the plot of a folder's curves, as one page; returns where it is."""
    curves = read_curves(folder)
    plot(curves, folder / "curves.png")
    picture = base64.b64encode((folder / "curves.png").read_bytes()).decode()
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(table(curves))
    text = escape(console.export_text())
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(
        f'<!doctype html><meta charset="utf-8"><title>{escape(folder.name)}</title>'
        f"<h1>Searches at equal work</h1><pre>{text}</pre>"
        f'<img alt="loss against block-forwards" src="data:image/png;base64,{picture}">\n',
        encoding="utf-8",
    )
    return to


def methods(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """The curves of each method, over the seeds."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.method, []).append(curve)
    return found


def work(curves: Iterable[Curve]) -> int:
    """The block-forwards that all searches had: those of the shortest."""
    return min(curve.points[-1][0] for curve in curves)


def table(curves: Sequence[Curve]) -> Table:
    """Mean and spread over the seeds, at shares of the work."""
    budget = work(curves)
    heads = [f"after {share * budget:,.0f}" for share in SHARES]
    shown = Table("search", *heads, "on other text", "sets tried", title="loss of the best set")
    for name, group in methods(curves).items():
        cells = [_spread([curve.at(share * budget) for curve in group]) for share in SHARES]
        other = _spread([curve.other_loss for curve in group])
        tried = f"{statistics.mean(curve.evaluated for curve in group):.0f}"
        shown.add_row(name, *cells, other, tried)
    return shown


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "none yet"
    return f"{statistics.mean(known):.3f} ± {statistics.pstdev(known):.3f}"


def summary(curves: Sequence[Curve]) -> dict[str, dict[str, Any]]:
    """Each method against the first, at equal work, as plain data."""
    budget, grouped = work(curves), methods(curves)
    means = {
        name: statistics.mean(curve.at(budget) or float("inf") for curve in group)
        for name, group in grouped.items()
    }
    first, *others = grouped
    return {
        f"{name} against {first}": {
            "baseline": means[first],
            "ours": means[name],
            "ratio": means[name] / means[first],
            "equal": None,
            "block_forwards": budget,
            "other_text": [
                statistics.mean(curve.other_loss for curve in grouped[one]) for one in (first, name)
            ],
            "wins": sum(
                (mine.at(budget) or float("inf")) < (theirs.at(budget) or float("inf"))
                for mine, theirs in zip(grouped[name], grouped[first], strict=True)
            ),
            "seeds": len(grouped[name]),
        }
        for name in others
    }


def plot(curves: Sequence[Curve], path: Path) -> None:
    """A line per search, a colour per method, a marker per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, group) in enumerate(methods(curves).items()):
        for index, curve in enumerate(group):
            spent, losses = zip(*curve.points, strict=True)
            alone = len(spent) == 1  # one point, to be seen over the lines
            axes.step(
                spent,
                losses,
                where="post",
                color=f"C{number}",
                label=name if index == 0 else None,
                marker="oxs"[index % 3],
                markersize=9 if alone else 5,
                zorder=3 if alone else 2,
            )
    axes.set(xlabel="block-forwards of the calibration text", ylabel="loss of the best set")
    axes.legend()
    figure.savefig(path, dpi=120)
