"""Pictures of a study: the front of two objectives, all pairs of more, the course of one.

As a page (plotly: hover tells what a trial did) and as a picture (matplotlib: SVG).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, front, losses
from search.journal.view import View
from search.report.format import cell, delta, story

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, GRID = "#1e293b", "#e2e8f0"
HOVER = "%{customdata}<extra></extra>"
FONT = "Inter, system-ui, -apple-system, Segoe UI, sans-serif"


@dataclass(frozen=True)
class Group:
    """Trials that are drawn alike."""

    name: str
    results: tuple[Result, ...]
    colour: str
    symbol: str
    size: int
    marker: str  # matplotlib's word


def groups(view: View) -> list[Group]:
    """Complete trials by what they are, the most interesting last and so on top."""
    complete = [one for one in view.trials if one.state == "complete"]
    chosen = [one for one in complete if one.on_front]
    rest = [one for one in complete if one.feasible and not one.on_front]
    missed = [one for one in complete if not one.feasible]
    base = [view.baseline] if view.baseline else []
    found = [
        Group("misses a constraint", tuple(missed), "#cbd5e1", "x", 8, "x"),
        Group("dominated", tuple(rest), "#94a3b8", "circle", 8, "o"),
        Group("front", tuple(chosen), "#0f766e", "circle", 11, "o"),
        Group("untouched model", tuple(base), "#d97706", "diamond", 13, "D"),
    ]
    return [group for group in found if group.results]


# -- pages -------------------------------------------------------------------------------------


def front_html(view: View) -> str:
    """A page of its own; needs no network."""
    return str(front_figure(view).to_html(include_plotlyjs=True, full_html=True))


def front_figure(view: View) -> "Figure":
    """The front, whatever the number of objectives."""
    names = list(view.study.objectives)
    if len(names) == 1:
        return history_figure(view, names[0])
    figure = _pairs(view, names) if len(names) > 2 else _front(view, names)
    return _styled(figure, view.study.name)


def _front(view: View, names: Sequence[str]) -> "Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    line = front(view.results, view.study.objectives)
    figure.add_scatter(
        x=[one.metrics[names[1]] for one in line],
        y=[one.metrics[names[0]] for one in line],
        mode="lines",
        line={"shape": "vh", "color": "#0f766e", "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for group in groups(view):
        figure.add_scatter(
            x=[one.metrics[names[1]] for one in group.results],
            y=[one.metrics[names[0]] for one in group.results],
            mode="markers",
            name=group.name,
            marker=_marker(group),
            customdata=[told(view, one) for one in group.results],
            hovertemplate=HOVER,
        )
    figure.update_yaxes(title=_axis(view, names[0]), range=_window(view, names[0]))
    figure.update_xaxes(title=_axis(view, names[1]), range=_window(view, names[1]))
    return figure


def _window(view: View, name: str) -> tuple[float | None, float | None]:
    """The axis's range: what is feasible and what comes near; the rest would press it together."""
    feasible = [one.metrics[name] for one in view.results if one.feasible]
    if not feasible:
        return None, None
    missed = [one for one in view.trials if one.state == "complete" and not one.feasible]
    near = sorted(missed, key=lambda one: one.miss)[: (len(missed) + 1) // 2]
    low, high = min(feasible), max(feasible)
    room = 4 * (high - low or abs(high) or 1.0)
    values = [one.metrics[name] for one in near]
    values = [value for value in values if low - room <= value <= high + room]
    low, high = min([low, *values]), max([high, *values])
    margin = 0.08 * (high - low) or 0.1 * room
    return low - margin, high + margin


def _pairs(view: View, names: Sequence[str]) -> "Figure":
    import plotly.graph_objects as go

    figure = go.Figure()
    for group in groups(view):
        values = {name: [one.metrics[name] for one in group.results] for name in names}
        figure.add_splom(
            dimensions=[{"label": name, "values": values[name]} for name in names],
            name=group.name,
            marker=_marker(group),
            customdata=[told(view, one) for one in group.results],
            hovertemplate=HOVER,
            diagonal_visible=False,
            showupperhalf=False,
        )
    return figure


def history_figure(view: View, name: str) -> "Figure":
    """One metric, trial after trial, and the best that met the constraints so far."""
    import plotly.graph_objects as go

    figure = go.Figure()
    numbers, values = best_so_far(view, name)
    figure.add_scatter(
        x=numbers,
        y=values,
        mode="lines",
        name="best so far",
        line={"shape": "hv", "color": "#0f766e", "width": 2},
        hoverinfo="skip",
    )
    for group in groups(view):
        figure.add_scatter(
            x=[one.number for one in group.results],
            y=[one.metrics[name] for one in group.results],
            mode="markers",
            name=group.name,
            marker=_marker(group),
            customdata=[told(view, one) for one in group.results],
            hovertemplate=HOVER,
        )
    figure.update_yaxes(title=_axis(view, name), range=_window(view, name))
    figure.update_xaxes(title="trial")
    return _styled(figure, view.study.name)


def growth_figure(view: View) -> "Figure":
    """How the front of two objectives grew: the area it dominates, as a share of the last one."""
    import plotly.graph_objects as go

    figure = go.Figure()
    numbers, areas = growth(view)
    figure.add_scatter(
        x=numbers,
        y=areas,
        mode="lines",
        line={"shape": "hv", "color": "#0f766e", "width": 2},
        hovertemplate="trial %{x}: %{y:.1%}<extra></extra>",
    )
    figure.update_yaxes(title="dominated area", tickformat=".0%", range=[0, 1.05])
    figure.update_xaxes(title="trial")
    return _styled(figure, view.study.name)


def growth(view: View) -> tuple[list[int], list[float]]:
    """Trial numbers, and the area that the feasible trials up to each dominate; 1 at the end."""
    feasible = [one for one in view.results if one.feasible]
    points = [losses(one, view.study.objectives) for one in feasible]
    if not points:
        return [], []
    corner = (max(x for x, _ in points), max(y for _, y in points))
    areas = [area(points[: count + 1], corner) for count in range(len(points))]
    return [one.number for one in feasible], [one / (areas[-1] or 1.0) for one in areas]


def area(points: Sequence[tuple[float, ...]], corner: tuple[float, float]) -> float:
    """The area between a corner and the points that are less than it in both."""
    total, height = 0.0, corner[1]
    for x, y in sorted(points):
        if y < height:
            total, height = total + (corner[0] - x) * (height - y), y
    return total


def best_so_far(view: View, name: str) -> tuple[list[int], list[float]]:
    """Trial numbers, and the best value of a metric among the feasible ones up to each."""
    pick = max if view.study.objectives.get(name) == "max" else min
    feasible = [one for one in view.results if one.feasible]
    values = list(accumulate((one.metrics[name] for one in feasible), pick))
    numbers = [one.number for one in feasible]
    last = view.results[-1].number if view.results else 0
    return ([*numbers, last], [*values, values[-1]]) if values else ([], [])


def told(view: View, result: Result) -> str:
    """What hovering over a trial says."""
    base = view.baseline.metrics if view.baseline else {}
    lines = [f"<b>{result.name}</b>", story(result)]
    for name, value in result.metrics.items():
        change = "" if result.is_baseline else f"  {delta(name, value, base.get(name))}"
        lines.append(f"{name} {cell(name, value)}{change}")
    return "<br>".join(lines)


def _marker(group: Group) -> dict[str, Any]:
    return {
        "color": group.colour,
        "symbol": group.symbol,
        "size": group.size,
        "line": {"width": 1, "color": "white"} if group.symbol != "x" else {"width": 0},
    }


def _axis(view: View, name: str) -> str:
    return f"{name} ({view.study.objectives.get(name, '')}imise)".replace("(imise)", "")


def _styled(figure: "Figure", title: str) -> "Figure":
    figure.update_layout(
        title={"text": title, "x": 0.01},
        template="plotly_white",
        font={"family": FONT, "color": INK, "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        margin={"l": 70, "r": 20, "t": 60, "b": 55},
        height=460,
        hoverlabel={"bgcolor": "white", "font": {"family": FONT, "color": INK}, "align": "left"},
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, zeroline=False)
    return figure


# -- pictures ----------------------------------------------------------------------------------


def front_svg(view: View) -> str:
    """The front, or the course of a single objective; more than two show the first two."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    names = list(view.study.objectives)[:2]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    if len(names) == 1:
        numbers, values = best_so_far(view, names[0])
        axes.step(numbers, values, where="post", color="#0f766e", label="best so far")
    else:
        line = front(view.results, {name: view.study.objectives[name] for name in names})
        xs, ys = ([one.metrics[name] for one in line] for name in (names[1], names[0]))
        axes.step(xs, ys, where="pre", color="#0f766e", linewidth=1, linestyle=":")
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
    axes.set_ylabel(_axis(view, names[0]))
    axes.set_xlabel(_axis(view, names[1]) if len(names) == 2 else "trial")
    axes.set_ylim(*_window(view, names[0]))
    if len(names) == 2:
        axes.set_xlim(*_window(view, names[1]))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if len(names) == 2:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title(view.study.name, loc="left", fontsize=11, fontweight="bold")
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    written = io.StringIO()
    figure.savefig(written, format="svg")
    return written.getvalue()


def _across(result: Result, names: Sequence[str]) -> float:
    return result.metrics[names[1]] if len(names) == 2 else float(result.number)
