"""Omission sets: which blocks to skip, started from the influence ranking."""

from typing import Annotated, Any, Literal

from pydantic import Field

from spaces import sets
from spaces.space import Point, Space, Trial
from trainables.omission.importance import BlockInfluence
from trainables.omission.method import Omission, check_unit
from trainables.stage import Bench, Facts, Stage

Blocks = Annotated[int, Field(ge=0)]
Unit = Literal["block", "attention", "ffn"]
FIELDS: dict[Unit, str] = {"block": "skip", "attention": "attention", "ffn": "ffn"}


class OmissionSpace(Space):
    """Skip up to `max_skip` blocks, or only their attention or FFN; never the first and last ones.

    Those stay in the greedy searches of the literature too.
    """

    max_skip: Blocks = 8
    keep_first: Blocks = 1
    keep_last: Blocks = 1
    unit: Unit = "block"

    def survey(self, bench: Bench) -> dict[str, Any]:
        """Block influence on the calibration data. Refuses a unit that the model does not have."""
        if self.unit != "block":
            check_unit(bench.model, self.unit)
        found = {"influence": bench.stats(BlockInfluence)["influence"].tolist()}
        return found | super().survey(bench)

    def starts(self, facts: Facts) -> list[Point]:
        """The least influential 1, 2, 4, ... blocks."""
        free = self._free(facts)
        ranked = sorted(free, key=lambda n: facts.survey["influence"][n])
        most = min(self.max_skip, len(free))
        sizes = [2**i for i in range(most.bit_length())]
        return [{self._name: sorted(ranked[:size])} for size in sizes]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        price = dict(enumerate(facts.survey["influence"]))
        chosen = sets.suggest(trial, self._name, self._free(facts), price, self.max_skip)
        return [Omission(**{FIELDS[self.unit]: chosen})]

    @property
    def _name(self) -> str:
        return f"omission.{FIELDS[self.unit]}"

    def _free(self, facts: Facts) -> list[int]:
        last = facts.blocks - self.keep_last
        return [n for n in range(self.keep_first, last) if n not in facts.fixed]
