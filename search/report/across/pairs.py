"""Arms of a study compared in pairs: trials that differ in one thing, seed by seed.

The reference is the arm that brings nothing of another model. What two arms of one seed share (the
head they begin with, the order of the examples) falls out of their difference. The interval is
Student's, over seeds, at 95 %: of five seeds it is wide, and says so.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, Step
from search.journal.view import View
from search.report.format import cell

if TYPE_CHECKING:
    from rich.table import Table

_LEVEL = 0.975  # on either side
_LEAST = 2  # pairs, for an interval


@dataclass(frozen=True)
class Pairs:
    """One arm against the reference, in one metric.

    Attributes:
        seeds: on which both were tried.
        reference, value: their means there.
        difference: of the arm, less the reference; low and high are the ends of its interval.
        won: on how many seeds the arm's value is the larger one.
    """

    arm: str
    metric: str
    seeds: tuple[int, ...]
    reference: float
    value: float
    difference: float
    low: float
    high: float
    won: int


def arms(view: View) -> dict[str, dict[int, Result]]:
    """Arm -> seed -> trial; the reference is called by its own label, and stands first."""
    found: dict[str, dict[int, Result]] = {}
    for result in view.results:
        step = _plugging(result)
        if result.state == "complete" and step is not None:
            name = _arm(result, step)
            found.setdefault(name, {}).setdefault(int(step.settings["seed"]), result)
    return dict(sorted(found.items(), key=lambda one: not _refers(one[1])))


def _plugging(result: Result) -> Step | None:
    """The stage that says what it took from another model."""
    steps = [s for s in result.stages if "donor_bytes" in s.counts and "seed" in s.settings]
    return steps[-1] if steps else None


def _arm(result: Result, step: Step) -> str:
    """What was done, without seed and number: the stage's label and all else that was chosen."""
    own = ("plugin.layer", "plugin.seed", "plugin.donor")
    rest = {
        name: value
        for name, value in result.params.items()
        if name not in own and not name.startswith(("plugin.number", "ilm."))
    }
    return "  ".join([step.label, *(f"{name}={value}" for name, value in rest.items())])


def _refers(trials: Mapping[int, Result]) -> bool:
    step = _plugging(next(iter(trials.values())))
    return step is not None and step.counts["donor_bytes"] == 0


def pairs(view: View, metric: str) -> list[Pairs]:
    """Every arm that has seeds in common with the reference, two or more."""
    found = arms(view)
    reference = next((trials for trials in found.values() if _refers(trials)), {})
    return list(_pairs(found, reference, metric))


def _pairs(
    found: Mapping[str, Mapping[int, Result]], reference: Mapping[int, Result], metric: str
) -> Iterator[Pairs]:
    for name, trials in found.items():
        seeds = tuple(sorted(set(trials) & set(reference)))
        if _refers(trials) or len(seeds) < _LEAST:
            continue
        own = [trials[seed].metrics[metric] for seed in seeds]
        other = [reference[seed].metrics[metric] for seed in seeds]
        apart = [a - b for a, b in zip(own, other, strict=True)]
        middle, half = mean(apart), _half(apart)
        won = sum(one > 0 for one in apart)
        yield Pairs(
            *(name, metric, seeds, mean(other), mean(own), middle, middle - half, middle + half),
            won=won,
        )


def _half(values: list[float]) -> float:
    """Half of Student's interval of a mean."""
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, _LEVEL)) * stdev(values) / sqrt(len(values))


def pairs_table(view: View, metric: str) -> "Table | None":
    """For people; None where there is nothing to compare."""
    from rich.table import Table
    from rich.text import Text

    rows = pairs(view, metric)
    if not rows:
        return None
    reference = next(iter(arms(view)))
    table = Table(title=f"{metric} against {reference}, in pairs of one seed, 95 %")
    table.add_column("arm")
    for name in ("seeds", reference, "arm's", "difference", "from", "to", "better on"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        numbers: list[Any] = [row.difference, row.low, row.high]
        table.add_row(
            Text(row.arm),
            str(len(row.seeds)),
            cell(metric, row.reference),
            cell(metric, row.value),
            *(f"{one:+.4f}" for one in numbers),
            f"{row.won} of {len(row.seeds)}",
        )
    return table
