"""The course of a study as numbers: the best so far, and how the front grew."""

from bisect import bisect_left
from itertools import accumulate

from search.journal.results import losses
from search.journal.view import View


def best_so_far(view: View, name: str) -> tuple[list[int], list[float]]:
    """Trial numbers, and the best value of a metric among the feasible ones up to each."""
    pick = max if view.study.objectives.get(name) == "max" else min
    feasible = [one for one in view.results if one.feasible]
    values = list(accumulate((one.metrics[name] for one in feasible), pick))
    numbers = [one.number for one in feasible]
    last = view.results[-1].number if view.results else 0
    return ([*numbers, last], [*values, values[-1]]) if values else ([], [])


def growth(view: View) -> tuple[list[int], list[float]]:
    """Trial numbers, and the area that the feasible trials up to each dominate; 1 at the end.

    Of two objectives. The area ends at the worst values that any feasible trial has.
    """
    feasible = [one for one in view.results if one.feasible]
    points = [losses(one, view.study.objectives) for one in feasible]
    if not points:
        return [], []
    corner = (max(x for x, _ in points), max(y for _, y in points))
    steps: list[tuple[float, float]] = []
    areas = list(accumulate(_added(steps, (x, y), corner) for x, y in points))
    return [one.number for one in feasible], [one / (areas[-1] or 1.0) for one in areas]


def _added(
    steps: list[tuple[float, float]], point: tuple[float, float], corner: tuple[float, float]
) -> float:
    """The area that a point adds to a front, which is kept as its steps from left to right."""
    first = last = bisect_left(steps, point)
    left, low = point
    height = steps[first - 1][1] if first else corner[1]
    if height <= low:
        return 0.0
    area = 0.0
    while last < len(steps) and steps[last][1] >= low:  # what the point dominates
        area += (steps[last][0] - left) * (height - low)
        left, height = steps[last]
        last += 1
    right = steps[last][0] if last < len(steps) else corner[0]
    steps[first:last] = [point]
    return area + (right - left) * (height - low)
