"""Omission sets: which blocks to skip. One 0/1 per block, started from the influence ranking."""

from typing import Any

from spaces.sets import cheapest, suggest_set
from trainables.bench.bench import Bench
from trainables.bench.facts import Facts
from trainables.bench.stage import Stage
from trainables.omission import Omission


def space(
    trial: Any, facts: Facts, *, max_skip: int = 8, keep_first: int = 1, keep_last: int = 1
) -> list[Stage]:
    """Skip up to `max_skip` blocks.

    A proposal with more is cut back to its least influential ones. The first and last blocks stay,
    as in the greedy searches of the literature.
    """
    return [Omission(skip=chosen(trial, facts, max_skip, keep_first, keep_last))]


def chosen(
    trial: Any, facts: Facts, max_skip: int, keep_first: int, keep_last: int
) -> tuple[int, ...]:
    """The blocks a trial skips."""
    free = [n for n in range(keep_first, facts.blocks - keep_last) if n not in facts.fixed]
    skip = suggest_set(trial, "omission.skip", free)
    return cheapest(skip, facts.survey["influence"], max_skip)


def survey(bench: Bench) -> dict[str, Any]:
    """Block influence on the calibration data."""
    return {"influence": bench.stats(Omission)["influence"].tolist()}


def starts(
    facts: Facts, *, max_skip: int = 8, keep_first: int = 1, keep_last: int = 1
) -> list[dict[str, Any]]:
    """The least influential 1, 2, 4, ... blocks."""
    free = [n for n in range(keep_first, facts.blocks - keep_last) if n not in facts.fixed]
    ranked = sorted(free, key=lambda n: facts.survey["influence"][n])
    sizes = [2**i for i in range(max_skip.bit_length()) if 2**i <= min(max_skip, len(free))]
    return [{"omission.skip": sorted(ranked[:size])} for size in sizes]
