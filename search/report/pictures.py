"""A trial's pictures, drawn: whatever its stages said there is to see, never a tensor."""

import io
from collections.abc import Mapping
from typing import Any

from search.journal.results import Step
from trainables.core.pictures import Bars, Heatmap, Picture


def pictures(record: Mapping[str, Any]) -> list[Picture]:
    """All pictures of a trial's record, in the order of its stages."""
    steps = map(Step.read, record.get("stages") or ())
    return [picture for step in steps for picture in step.pictures]


def pictures_svg(record: Mapping[str, Any]) -> str | None:
    """All of a trial's pictures side by side; None where it has none."""
    found = pictures(record)
    if not found:
        return None
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 4.6), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _matrix(axes, one) if isinstance(one, Heatmap) else _bars(axes, one)
        axes.set_title(one.title, fontsize=10)
        axes.set_xlabel(one.axis)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "rayduce"}):  # the same record gives the same file
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _matrix(axes: Any, one: Heatmap) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    image = axes.imshow(
        [[_number(v) for v in row] for row in one.values], cmap="magma", vmax=one.high
    )
    for run in one.boxes:
        place = (run[0] - 0.5, run[0] - 0.5)
        box = Rectangle(place, len(run), len(run), fill=False, edgecolor="#2dd4bf", lw=2)
        axes.add_patch(box)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(one.axis.partition(" (")[0])
    axes.figure.colorbar(image, ax=axes, label=one.label, shrink=0.8)


def _bars(axes: Any, one: Bars) -> None:
    from matplotlib.ticker import MaxNLocator

    colours = ["#0f766e" if i in one.marked else "#94a3b8" for i in range(len(one.values))]
    axes.bar(range(len(one.values)), [_number(v) for v in one.values], color=colours)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(one.label)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
