"""Pictures of a study: the front of two objectives, all pairs of more, the course of one.

Drawn by plotly, for pages: hovering over a trial tells what it did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, front
from search.journal.view import View
from search.report.course import best_so_far, growth
from search.report.rows import row

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, GRID, GREEN, GREY = "#1e293b", "#e2e8f0", "#0f766e", "#94a3b8"
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
        Group("dominated", tuple(rest), GREY, "circle", 8, "o"),
        Group("front", tuple(chosen), GREEN, "circle", 11, "o"),
        Group("untouched model", tuple(base), "#d97706", "diamond", 13, "D"),
    ]
    return [group for group in found if group.results]


def axis(view: View, name: str) -> str:
    """What an axis is called: `perplexity (minimise)`."""
    way = view.study.objectives.get(name)
    return f"{name} ({way}imise)" if way else name


def window(view: View, name: str) -> tuple[float | None, float | None]:
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


# -- figures -----------------------------------------------------------------------------------


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
    line = front(view.results, view.study.objectives)
    xs, ys = ([one.metrics[name] for one in line] for name in (names[1], names[0]))
    figure = _line(xs, ys, shape="vh", dash="dot", showlegend=False)
    for group in groups(view):
        _scatter(figure, view, group, [one.metrics[names[1]] for one in group.results], names[0])
    figure.update_xaxes(title=axis(view, names[1]), range=window(view, names[1]))
    return figure


def history_figure(view: View, name: str) -> "Figure":
    """One metric, trial after trial, and the best that met the constraints so far."""
    figure = _line(*best_so_far(view, name), name="best so far")
    for group in groups(view):
        _scatter(figure, view, group, [one.number for one in group.results], name)
    figure.update_xaxes(title="trial")
    return _styled(figure, view.study.name)


def growth_figure(view: View) -> "Figure":
    """How the front of two objectives grew: the area it dominates, as a share of the last one."""
    figure = _line(*growth(view), hoverinfo=None)
    figure.update_traces(hovertemplate="trial %{x}: %{y:.1%}<extra></extra>")
    figure.update_yaxes(title="dominated area", tickformat=".0%", range=[0, 1.05])
    figure.update_xaxes(title="trial")
    return _styled(figure, view.study.name)


def _line(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    shape: str = "hv",
    dash: str = "solid",
    name: str = "",
    showlegend: bool = True,
    hoverinfo: str | None = "skip",
) -> "Figure":
    """A figure of steps."""
    import plotly.graph_objects as go

    figure = go.Figure()
    line = {"shape": shape, "color": GREEN, "width": 1.5 if dash == "dot" else 2, "dash": dash}
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        name=name,
        line=line,
        hoverinfo=hoverinfo,
        showlegend=showlegend and bool(name),
    )
    return figure


def _scatter(figure: "Figure", view: View, group: Group, xs: Sequence[float], name: str) -> None:
    """Trials that are drawn alike, by one metric's height."""
    figure.add_scatter(
        x=xs,
        y=[one.metrics[name] for one in group.results],
        mode="markers",
        name=group.name,
        marker=_marker(group),
        customdata=[told(view, one) for one in group.results],
        hovertemplate=HOVER,
    )
    figure.update_yaxes(title=axis(view, name), range=window(view, name))


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


def told(view: View, result: Result) -> str:
    """What hovering over a trial says."""
    found = row(view, result)
    lines = [f"<b>{result.name}</b>", escape(found.done)]
    lines += [f"{name} {cell.text}  {cell.change}".rstrip() for name, cell in found.cells.items()]
    return "<br>".join(lines)


def _marker(group: Group) -> dict[str, Any]:
    return {
        "color": group.colour,
        "symbol": group.symbol,
        "size": group.size,
        "line": {"width": 1, "color": "white"} if group.symbol != "x" else {"width": 0},
    }


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
