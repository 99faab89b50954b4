"""Similarity matrices as pictures: how alike the blocks are, with the modules drawn in.

Takes what a trial's record says, never a tensor.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Matrix: TypeAlias = Sequence[Sequence[float | None]]  # percent; None where there is none


@dataclass(frozen=True)
class Similarities:
    """One matrix of a trial and what was made of it."""

    title: str
    matrix: Matrix
    modules: tuple[tuple[int, ...], ...]  # rows of the matrix
    threshold: float


def similarities(record: Mapping[str, Any]) -> Iterator[Similarities]:
    """Every matrix a trial's record holds, in the order of its passes."""
    for stage in record.get("stages", ()):
        counts = stage["counts"]
        passes = counts.get("passes", (counts,))
        for number, one in enumerate(passes, 1):
            if "matrix" in one:
                yield from _towers(one, float(stage["settings"]["threshold"]), number)


def _towers(counts: Mapping[str, Any], threshold: float, number: int) -> Iterator[Similarities]:
    first = 0
    for index, matrix in enumerate(counts["matrix"]):
        blocks = range(first, first + len(matrix))
        inside = (module for module in counts["modules"] if module[0] in blocks)
        modules = tuple(tuple(block - first for block in module) for module in inside)
        tower = f", stack {index + 1}" if len(counts["matrix"]) > 1 else ""
        undone = "" if counts.get("accepted", True) else ", undone"
        title = f"pass {number}{tower}: {len(matrix)} blocks, {len(modules)} modules{undone}"
        yield Similarities(title, matrix, modules, threshold)
        first = blocks.stop


def heatmaps_svg(record: Mapping[str, Any]) -> str | None:
    """All of a trial's matrices side by side; None where it has none."""
    found = list(similarities(record))
    if not found:
        return None
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 4.6), layout="constrained")
    FigureCanvasSVG(figure)
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        _draw(axes, one)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "rayduce"}):  # the same record gives the same file
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw(axes: Any, one: Similarities) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    values = [[float("nan") if v is None else v for v in row] for row in one.matrix]
    image = axes.imshow(values, cmap="magma", vmax=100.0)
    for module in one.modules:
        place = (module[0] - 0.5, module[0] - 0.5)
        box = Rectangle(place, len(module), len(module), fill=False, edgecolor="#2dd4bf", lw=2)
        axes.add_patch(box)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(one.title, fontsize=10)
    axes.set_xlabel(f"block (modules: CKA from {one.threshold:g} % on)")
    axes.set_ylabel("block")
    axes.figure.colorbar(image, ax=axes, label="CKA, percent", shrink=0.8)
