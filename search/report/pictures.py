"""Drawings as SVG: whatever a trial's stages said there is to see, and the study's front.

Drawn by matplotlib, for files and for pages without a script. Knows no method, and no tensor.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, Step, front
from search.journal.view import View
from search.report.course import best_so_far
from search.report.format import scaled
from search.report.plots import GREEN, GREY, GRID, INK, axis, groups, window
from trainables.core.pictures import Bars, Heatmap, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3  # pictures side by side
WIDTH, HEIGHT = 5.2, 4.4  # of one, in inches
STYLE: Any = {
    "svg.hashsalt": "rayduce",  # the same record gives the same file
    "text.parse_math": False,  # titles are words
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#94a3b8",
    "xtick.color": INK,
    "ytick.color": INK,
}


# -- of a trial --------------------------------------------------------------------------------


def pictures(record: Mapping[str, Any]) -> list[Picture]:
    """All pictures of a trial's record, in the order of its stages."""
    steps = map(Step.read, record.get("stages") or ())
    return [picture for step in steps for picture in step.pictures]


def pictures_svg(record: Mapping[str, Any]) -> str | None:
    """All of a trial's pictures as one file, three to a row; None where it has none."""
    found = pictures(record)
    return _svg(partial(_sheet, found), *_grid(len(found))) if found else None


def picture_svg(picture: Picture) -> str:
    """One picture, to be put into a page."""
    text = _svg(partial(_sheet, [picture]), 1, 1)
    return text[text.index("<svg") :]


def _grid(count: int) -> tuple[int, int]:
    across = min(count, ACROSS)
    return -(-count // across), across


def _svg(draw: "Callable[[Figure], None]", rows: int, across: int) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * across, HEIGHT * rows), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _sheet(found: Sequence[Picture], figure: "Figure") -> None:
    places = figure.subplots(*_grid(len(found)), squeeze=False).flatten()
    for axes, one in zip(places, found, strict=False):
        try:
            _matrix(axes, one) if isinstance(one, Heatmap) else _bars(axes, one)
            axes.set_xlabel(one.axis)
        except (TypeError, ValueError, IndexError) as error:  # a stage is anybody's code
            axes.clear()
            axes.set_axis_off()
            axes.text(0, 0.9, f"cannot be drawn: {error}", wrap=True, va="top")
        axes.set_title(one.title, fontsize=11, loc="left")
    for axes in places[len(found) :]:
        axes.set_axis_off()


def _matrix(axes: Any, one: Heatmap) -> None:
    from matplotlib.patches import Rectangle

    values = [[_number(v) for v in row] for row in one.values]
    image = axes.imshow(values, cmap="magma", vmax=one.high)
    for run in filter(None, one.boxes):
        place = (run[0] - 0.5, run[0] - 0.5)
        box = Rectangle(place, len(run), len(run), fill=False, edgecolor="#2dd4bf", lw=2)
        axes.add_patch(box)
    _whole(axes.xaxis, axes.yaxis)
    axes.set_ylabel(one.axis.partition(" (")[0])
    axes.figure.colorbar(image, ax=axes, label=one.label, shrink=0.8)


def _bars(axes: Any, one: Bars) -> None:
    colours = [GREEN if i in one.marked else GREY for i in range(len(one.values))]
    axes.bar(range(len(one.values)), [_number(v) for v in one.values], color=colours, zorder=2)
    if one.band:
        places = range(len(one.values))
        axes.vlines(places, *zip(*one.band, strict=True), color=INK, linewidth=1.2, zorder=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlim(-0.7, len(one.values) - 0.3)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    _whole(axes.xaxis)
    axes.set_ylabel(one.label)


def _whole(*found: Any) -> None:
    """Ticks at whole numbers only: blocks and layers are counted."""
    from matplotlib.ticker import MaxNLocator

    for one in found:
        one.set_major_locator(MaxNLocator(integer=True))


def _number(value: float | None) -> float:
    """What has no value, or none that a scale could hold, leaves a gap."""
    return float("nan") if value is None or not math.isfinite(value) else value


# -- of a study --------------------------------------------------------------------------------


def front_svg(view: View) -> str:
    """The front, or the course of a single objective; more than two show the first two."""
    return _svg(partial(_study, view), 1, 1)


def _study(view: View, figure: "Figure") -> None:
    names = list(view.study.objectives)[:2]
    figure.set_size_inches(7.2, 4.2)
    axes = figure.subplots()
    _steps(axes, view, names)
    for group in groups(view):
        axes.scatter(
            [_across(one, names) for one in group.results],
            [one.metrics[names[0]] for one in group.results],
            s=group.size**2 / 2,
            c=group.colour,
            marker=group.marker,
            label=group.name,
            zorder=3,
        )
    _scale(axes.yaxis, view, names[0])
    if len(names) == 2:
        _scale(axes.xaxis, view, names[1])
    else:
        axes.set_xlabel("trial")
    axes.set_title(view.study.name, loc="left", fontsize=11, fontweight="bold")
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _steps(axes: Any, view: View, names: Sequence[str]) -> None:
    if len(names) == 1:
        numbers, values = best_so_far(view, names[0])
        axes.step(numbers, values, where="post", color=GREEN, label="best so far")
    else:
        line = front(view.results, {name: view.study.objectives[name] for name in names})
        xs, ys = ([one.metrics[name] for one in line] for name in (names[1], names[0]))
        axes.step(xs, ys, where="pre", color=GREEN, linewidth=1, linestyle=":")


def _scale(found: Any, view: View, name: str) -> None:
    """An axis of one metric."""
    found.set_label_text(axis(view, name))
    low, high = window(view, name)
    if low is not None and high is not None:
        found.set_view_interval(low, high, ignore=True)
    found.set_major_formatter(lambda value, _: scaled(value))


def _across(result: Result, names: Sequence[str]) -> float:
    return result.metrics[names[1]] if len(names) == 2 else float(result.number)
