"""Quantization: of how many bits, and what stays as it is.

Parameters `quantize.scheme`; for "mixed" `quantize.budget`, in percent; else `quantize.attention`
and `quantize.ffn`, 0 where these stay, and the set `quantize.spare` of blocks that stay.
"""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from spaces import sets
from spaces.space import Choices, Space, Trial, choose
from trainables.bench.models.packed.quantized import NEEDS
from trainables.core.errors import PlanError
from trainables.quantize import InHalfPrecision, Kind, Quantize, QuantizeMixed, check
from trainables.stage import Bench, Facts, Stage

MIXED, HALVES = "mixed", ("bfloat16", "float16")


def _scheme(name: str) -> str:
    known = (*NEEDS, MIXED, *HALVES)
    if name not in known:
        raise ValueError(", ".join(known))
    return name


Scheme = Annotated[str, AfterValidator(_scheme)]
Budget = Annotated[int, Field(ge=1, le=100)]


class QuantizeSpace(Space):
    """What is quantized is the linears inside the blocks.

    Attributes:
        schemes: int8, int8-dynamic, int2 to int7, float8, float8-dynamic, int4-kernel; mixed: each
            block with 2, 3, 4 or 8 bits, by what it does to the model's outputs; bfloat16 and
            float16: all of the model in half the precision.
        groups: inputs that share a scale, below 8 bits.
        budgets: of mixed bits, in percent of the weights' bytes, the least and the most.
        by_kind: whether attention or the feed-forward layers may stay as they are.
        most_spared: how many blocks may, those first that rounding to 4 bits harms most.
        embeddings: whether the table of token embeddings gets 8 bits.
    """

    schemes: Choices[Scheme] = ("int8", "int8-dynamic", "int4", MIXED, "bfloat16")
    groups: Choices[Annotated[int, Field(ge=2)]] = (32,)
    budgets: tuple[Budget, Budget] = (12, 30)
    by_kind: bool = False
    most_spared: Annotated[int, Field(ge=0)] = 0
    embeddings: Choices[bool] = (False,)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.budgets[0] > self.budgets[1]:
            raise PlanError("budgets", got=list(self.budgets), allowed="the least, then the most")
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """What 4 bits do to each block, where blocks may be spared. A scheme that the device
        cannot, or a model without linears, is refused here."""
        plain = [name for name in self.schemes if name not in (MIXED, *HALVES)]
        if plain or MIXED in self.schemes:
            check(bench, plain)
        found = super().survey(bench)
        if MIXED in self.schemes or self.most_spared:
            found["harm"] = bench.stats(QuantizeMixed)["harm"][:, 2].tolist()
        return found

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        scheme = choose(trial, "quantize.scheme", self.schemes)
        if scheme in HALVES:
            return [InHalfPrecision("float16" if scheme == "float16" else "bfloat16")]
        table = choose(trial, "quantize.embeddings", self.embeddings)
        if scheme == MIXED:
            budget = trial.suggest_int("quantize.budget", *self.budgets) / 100
            return [QuantizeMixed(budget, table)]
        group = choose(trial, "quantize.group", self.groups)
        spared = self._spared(trial, facts)
        return [Quantize(scheme, group, self._kinds(trial), spared, table)]

    def _kinds(self, trial: Trial) -> tuple[Kind, ...]:
        if not self.by_kind:
            return ()
        kinds: tuple[Kind, ...] = ("attention", "ffn")
        return tuple(kind for kind in kinds if not trial.suggest_int(f"quantize.{kind}", 0, 1))

    def _spared(self, trial: Trial, facts: Facts) -> tuple[int, ...]:
        if not self.most_spared:
            return ()
        dear = {number: -harm for number, harm in enumerate(facts.survey["harm"])}
        return sets.suggest(trial, "quantize.spare", range(facts.blocks), dear, self.most_spared)
