"""A small encoder: which methods, in which order, with which settings.

A trial takes one chain of `chains`, and asks only for what its methods want to know:

    [space]
    name = "small_encoder"
    chains = [["quantize"], ["distill", "quantize"], ["magnitude", "recover", "codebook"]]
    magnitude = { low = 30, high = 70, retrain = ["none"] }

Chains that make no sense are refused when the study is read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from spaces.codebook import CodebookSpace
from spaces.distill import DistillSpace
from spaces.magnitude import MagnitudeSpace
from spaces.neurons import NeuronsSpace
from spaces.omission import OmissionSpace
from spaces.quantize import QuantizeSpace
from spaces.space import Choices, Point, Space, Trial, choose
from spaces.wanda import WandaSpace
from trainables.codebook import Codebook
from trainables.core.errors import PlanError
from trainables.core.spec import TrainSpec
from trainables.distill import Distill
from trainables.magnitude import Magnitude
from trainables.neurons import Neurons
from trainables.omission.method import Omission
from trainables.quantize import Quantize
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.stage import Bench, Facts, Stage, check_order
from trainables.wanda import Wanda

Step = Literal[
    "distill",
    "magnitude",
    "wanda",
    "neurons",
    "omission",
    "similarity",
    "recover",
    "codebook",
    "quantize",
]
Chain = Annotated[tuple[Step, ...], Field(min_length=1)]
_STAGES: Mapping[str, Stage] = {  # one of each, to look at what may follow what
    "distill": Distill(),
    "magnitude": Magnitude(0.5),
    "wanda": Wanda(0.5),
    "neurons": Neurons(0.2),
    "omission": Omission((0,)),
    "similarity": Similarity(),
    "recover": Recover(),
    "codebook": Codebook(),
    "quantize": Quantize(),
}
_CUTTING = {"distill", "similarity"}  # which may leave fewer blocks than omission knows of


class SmallEncoderSpace(Space):
    """Parameter `chain`, such as `distill > quantize`, then those of its methods' own spaces.

    Attributes:
        similarity: thresholds to choose from, in percent.
        recover: how the step of this name trains.
    """

    chains: Choices[Chain] = (
        ("distill",),
        ("magnitude",),
        ("codebook",),
        ("quantize",),
        ("distill", "quantize"),
        ("magnitude", "recover", "quantize"),
        ("magnitude", "recover", "codebook"),
        ("similarity", "recover", "quantize"),
    )
    distill: DistillSpace = DistillSpace()
    magnitude: MagnitudeSpace = MagnitudeSpace(granularities=("unstructured",), retrain=("none",))
    wanda: WandaSpace = WandaSpace(low=10)
    neurons: NeuronsSpace = NeuronsSpace(min_neurons_per_layer=(1, 1))
    omission: OmissionSpace = OmissionSpace(max_skip=3)
    similarity: Choices[Annotated[float, Field(gt=0, le=100)]] = (95.0, 90.0, 80.0)
    recover: TrainSpec = TrainSpec(epochs=1)
    codebook: CodebookSpace = CodebookSpace()
    quantize: QuantizeSpace = QuantizeSpace()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for chain in self.chains:
            told = " > ".join(chain)
            try:
                check_order([_STAGES[step] for step in chain])
            except PlanError as error:
                raise PlanError(f"chain {told}: {error}") from None
            _check_steps(chain, told)
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """What each method of the chains wants to know of the untouched model, by its name."""
        found = {name: space.survey(bench) for name, space in self._used().items()}
        return found | super().survey(bench)

    def starts(self, facts: Facts) -> list[Point]:
        """Every chain once."""
        if len(self.chains) == 1:
            return []
        return [{"chain": " > ".join(chain)} for chain in self.chains]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        name = choose(trial, "chain", [" > ".join(chain) for chain in self.chains])
        found: list[Stage] = []
        for step in name.split(" > "):
            found += self._step(step, trial, facts)
        return found

    def _step(self, step: str, trial: Trial, facts: Facts) -> list[Stage]:
        if step == "recover":
            return [Recover(self.recover)]
        if step == "similarity":
            return [Similarity(choose(trial, "similarity.threshold", self.similarity))]
        space: Space = getattr(self, step)
        return space.stages(trial, replace(facts, survey=facts.survey.get(step, {})))

    def _used(self) -> dict[str, Space]:
        steps = dict.fromkeys(step for chain in self.chains for step in chain)
        found = {step: getattr(self, step) for step in steps}
        return {step: space for step, space in found.items() if isinstance(space, Space)}


def _check_steps(chain: Chain, told: str) -> None:
    """What the stages themselves cannot know."""
    if chain[0] == "recover":
        do = "begin with a method, or train the model first, in [model.train]"
        raise PlanError(f"chain {told}: nothing is there to recover from", do=do)
    for one in set(chain):
        if chain.count(one) > 1 and one != "recover":
            raise PlanError(f"chain {told}: {one} twice", do="its settings are asked for once")
    if "distill" in chain[1:]:
        do = "its students are cut from the study's model, or take its place: begin with it"
        raise PlanError(f"chain {told}: distill after {chain[0]}", do=do)
    if "omission" in chain and (before := _CUTTING & set(chain[: chain.index("omission")])):
        do = "it knows the blocks of the study's model alone: put it first"
        raise PlanError(f"chain {told}: omission after {', '.join(before)}", do=do)
