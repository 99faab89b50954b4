"""Omission sets: which blocks to skip, started from the influence ranking."""

from typing import Annotated, Any, Literal

from pydantic import Field

from spaces.sets import suggest_set
from trainables.omission.importance import BlockInfluence
from trainables.omission.method import Omission
from trainables.stage import Bench, Facts, Stage

Blocks = Annotated[int, Field(ge=0)]
Unit = Literal["block", "attention", "ffn"]
FIELDS: dict[Unit, str] = {"block": "skip", "attention": "attention", "ffn": "ffn"}


def space(
    trial: Any,
    facts: Facts,
    *,
    max_skip: Blocks = 8,
    keep_first: Blocks = 1,
    keep_last: Blocks = 1,
    unit: Unit = "block",
) -> list[Stage]:
    """Skip up to `max_skip` blocks, or only their attention or FFN; never the first and last ones.

    Those stay in the greedy searches of the literature too.
    """
    name = FIELDS[unit]
    free = _free(facts, keep_first, keep_last)
    price = dict(enumerate(facts.survey["influence"]))
    chosen = suggest_set(trial, f"omission.{name}", free, price, max_skip)
    return [Omission(**{name: chosen})]


def survey(bench: Bench) -> dict[str, Any]:
    """Block influence on the calibration data."""
    return {"influence": bench.stats(BlockInfluence)["influence"].tolist()}


def starts(
    facts: Facts,
    *,
    max_skip: int = 8,
    keep_first: int = 1,
    keep_last: int = 1,
    unit: Unit = "block",
) -> list[dict[str, Any]]:
    """The least influential 1, 2, 4, ... blocks."""
    free = _free(facts, keep_first, keep_last)
    ranked = sorted(free, key=lambda n: facts.survey["influence"][n])
    sizes = [2**i for i in range(max_skip.bit_length()) if 2**i <= min(max_skip, len(free))]
    return [{f"omission.{FIELDS[unit]}": sorted(ranked[:size])} for size in sizes]


def _free(facts: Facts, keep_first: int, keep_last: int) -> list[int]:
    return [n for n in range(keep_first, facts.blocks - keep_last) if n not in facts.fixed]
