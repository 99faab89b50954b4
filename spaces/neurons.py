"""Feed-forward neurons: how many go, how much of each layer, and what decides."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from spaces.space import Choices, Point, Space, Trial
from trainables.core.errors import PlanError
from trainables.core.spec import Count
from trainables.neurons import Neurons
from trainables.neurons.scores import Against, Score
from trainables.stage import Bench, Facts, Stage

Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
STEP = 0.01  # of every number that is proposed: whole percents
THIRDS, PARTS = ("early", "middle", "late"), ("mean", "max", "activity")


class NeuronsSpace(Space):
    """Prune the neurons that the data hardly needs; the ranges are (lowest, highest).

    Parameters `neurons.prune_ratio`, `.max_prune_per_layer`, `.min_neurons_per_layer`,
    `.layer_scale.early`, `.middle`, `.late`, and for the score "activation" `.weight.mean`,
    `.max`, `.activity`, which are divided by their sum; `.score`, `.round_to` and `.uniform` where
    there is a choice.

    Attributes:
        early, middle, late: what scores are multiplied by in each third of the depth.
        weight: of the parts of the score "activation".
        answers_only: leave prompts out of the statistics where the data gives answers.
        edge_protect: the first and last layers, so many, get a share of theirs back.
    """

    prune_ratio: tuple[Share, Share] = (0.05, 0.30)
    max_prune_per_layer: tuple[Share, Share] = (0.20, 0.45)
    min_neurons_per_layer: tuple[Count, Count] = (400, 1000)
    early: tuple[Factor, Factor] = (0.2, 0.8)
    middle: tuple[Factor, Factor] = (1.0, 1.0)
    late: tuple[Factor, Factor] = (1.2, 2.2)
    weight: tuple[Factor, Factor] = (0.05, 1.0)
    score: Choices[Score] = ("activation",)
    round_to: Choices[Count] = (1,)
    uniform: Choices[bool] = (False,)
    against: Against = "layer"
    answers_only: bool = False
    edge_protect: Annotated[int, Field(ge=0)] = 2
    edge_share: Annotated[float, Field(ge=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("prune_ratio", "max_prune_per_layer", *THIRDS, "weight"):
            low, high = getattr(self, name)
            if low > high or any(abs(100 * one - round(100 * one)) > 1e-6 for one in (low, high)):
                allowed = f"[low, high], low first, in steps of {STEP}"
                raise PlanError(name, got=[low, high], allowed=allowed)
        if self.min_neurons_per_layer[0] > self.min_neurons_per_layer[1]:
            got = list(self.min_neurons_per_layer)
            raise PlanError("min_neurons_per_layer", got=got, allowed="[low, high], low first")
        if self.weight[1] == 0:
            raise PlanError("weight", got=list(self.weight), allowed="a highest weight above 0")
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """How wide the layers are. Measures what trials will need; what none could do is refused:
        a model without neurons to prune, a minimum that no layer has, a score without targets."""
        widths = Neurons.check(bench)
        if self.min_neurons_per_layer[0] >= max(widths):
            got = list(self.min_neurons_per_layer)
            allowed = f"less than a layer's {max(widths)} neurons"
            raise PlanError("space neurons: min_neurons_per_layer", got=got, allowed=allowed)
        for score in self.score:
            one = Neurons(self.prune_ratio[1], score=score, answers_only=self.answers_only)
            if (kind := one.calibrator()) is not None:
                bench.stats(kind)
        return {"widths": widths} | super().survey(bench)

    def starts(self, facts: Facts) -> list[Point]:
        """The published phases, as far as the ranges allow: more and more, the early or the outer
        thirds giving most, other parts of the score, and what came out best."""
        found = [self._point(share) for share in (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)]
        found += [self._point(0.25, scales) for scales in ((0.2, 1.0, 2.2), (0.5, 1.5, 0.8))]
        weights = ((0.2, 0.1, 0.7), (0.2, 0.7, 0.1), (0.34, 0.33, 0.33))
        found += [self._point(0.25, (0.2, 1.0, 2.2), parts) for parts in weights]
        found.append(self._point(0.25, (0.2, 1.0, 2.2), (0.8, 0.1, 0.1)))
        return [one for number, one in enumerate(found) if one not in found[:number]]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        score = _chosen(trial, "neurons.score", self.score)
        stage = Neurons(
            prune_ratio=_number(trial, "neurons.prune_ratio", self.prune_ratio),
            max_prune_per_layer=_number(
                trial, "neurons.max_prune_per_layer", self.max_prune_per_layer
            ),
            min_neurons_per_layer=trial.suggest_int(
                "neurons.min_neurons_per_layer", *self.min_neurons_per_layer
            ),
            layer_scale=self._scales(trial),
            score=score,
            weights=self._weights(trial) if score == "activation" else (0.7, 0.2, 0.1),
            against=self.against,
            answers_only=self.answers_only,
            edge_protect=self.edge_protect,
            edge_share=self.edge_share,
            round_to=_chosen(trial, "neurons.round_to", self.round_to),
            uniform=_chosen(trial, "neurons.uniform", self.uniform),
        )
        return [stage]

    def _scales(self, trial: Trial) -> tuple[float, float, float]:
        early, middle, late = (
            _number(trial, f"neurons.layer_scale.{third}", getattr(self, third)) for third in THIRDS
        )
        return early, middle, late

    def _weights(self, trial: Trial) -> tuple[float, float, float]:
        mean, largest, activity = (
            _number(trial, f"neurons.weight.{part}", self.weight) for part in PARTS
        )
        total = mean + largest + activity
        if total == 0:
            raise ValueError("neurons.weight: all three are 0, so nothing tells neurons apart")
        return mean / total, largest / total, activity / total

    def _point(
        self,
        ratio: float,
        scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
        weights: tuple[float, float, float] = (0.7, 0.2, 0.1),
    ) -> Point:
        wanted: Mapping[str, tuple[float, tuple[float, float]]] = {
            "prune_ratio": (ratio, self.prune_ratio),
            "max_prune_per_layer": (round(ratio + 0.2, 2), self.max_prune_per_layer),
            "min_neurons_per_layer": (400, self.min_neurons_per_layer),
        }
        for third, scale in zip(THIRDS, scales, strict=True):
            wanted = {**wanted, f"layer_scale.{third}": (scale, getattr(self, third))}
        if self.score[0] == "activation":
            for part, weight in zip(PARTS, weights, strict=True):
                wanted = {**wanted, f"weight.{part}": (weight, self.weight)}
        point: Point = {
            f"neurons.{name}": min(max(value, low), high)
            for name, (value, (low, high)) in wanted.items()
        }
        for name in ("score", "round_to", "uniform"):
            choices = getattr(self, name)
            point |= {f"neurons.{name}": choices[0]} if len(choices) > 1 else {}
        return point


def _number(trial: Trial, name: str, span: tuple[float, float]) -> float:
    # Rounded, as 0.1 * 3 is 0.30000000000000004.
    return round(trial.suggest_float(name, *span, step=STEP), 4)


def _chosen(trial: Trial, name: str, choices: tuple[Any, ...]) -> Any:
    """Asked for only where there is a choice."""
    return trial.suggest_categorical(name, list(choices)) if len(choices) > 1 else choices[0]
