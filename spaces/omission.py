"""Omission sets: which blocks to skip, started from the influence ranking."""

from typing import Annotated, Any

from pydantic import Field

from spaces.sets import suggest_set
from trainables.bench.bench import Bench
from trainables.bench.facts import Facts
from trainables.bench.stage import Stage
from trainables.omission import Omission

Blocks = Annotated[int, Field(ge=0)]


def space(
    trial: Any,
    facts: Facts,
    *,
    max_skip: Blocks = 8,
    keep_first: Blocks = 1,
    keep_last: Blocks = 1,
) -> list[Stage]:
    """Skip up to `max_skip` blocks, but never the first and last ones.

    Those stay in the greedy searches of the literature too.
    """
    return [Omission(skip=chosen(trial, facts, max_skip, keep_first, keep_last))]


def chosen(
    trial: Any, facts: Facts, max_skip: int, keep_first: int, keep_last: int
) -> tuple[int, ...]:
    """The blocks a trial skips."""
    free = _free(facts, keep_first, keep_last)
    price = dict(enumerate(facts.survey["influence"]))
    return suggest_set(trial, "omission.skip", free, price, max_skip)


def survey(bench: Bench) -> dict[str, Any]:
    """Block influence on the calibration data."""
    return {"influence": bench.stats(Omission)["influence"].tolist()}


def starts(
    facts: Facts, *, max_skip: int = 8, keep_first: int = 1, keep_last: int = 1
) -> list[dict[str, Any]]:
    """The least influential 1, 2, 4, ... blocks."""
    free = _free(facts, keep_first, keep_last)
    ranked = sorted(free, key=lambda n: facts.survey["influence"][n])
    sizes = [2**i for i in range(max_skip.bit_length()) if 2**i <= min(max_skip, len(free))]
    return [{"omission.skip": sorted(ranked[:size])} for size in sizes]


def _free(facts: Facts, keep_first: int, keep_last: int) -> list[int]:
    return [n for n in range(keep_first, facts.blocks - keep_last) if n not in facts.fixed]
