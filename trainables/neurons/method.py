"""FFN-neuron pruning: take out the neurons that the user's own data hardly needs.

Source: activation-based pruning of Gemma 3 on questions and answers (SmartFarm): statistics of the
input of `down_proj`, scales by thirds of the depth, one global selection with caps.
"""

import contextlib
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from trainables.bench.models.batches import ready
from trainables.bench.models.structure import towers
from trainables.core.cache import digest_tensors
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.lineage import Effect
from trainables.core.pictures import Bars
from trainables.core.types import PreTrainedModel, Stats
from trainables.neurons.calibrate import (
    Activations,
    AnswerActivations,
    Gradients,
    Weights,
    per_layer,
)
from trainables.neurons.ffn import cut, ffns, silence_neurons
from trainables.neurons.scores import (
    Against,
    Score,
    activation_scores,
    relative,
)
from trainables.neurons.select import Rule, limit, removals, thirds
from trainables.stage import Bench, Calibrates, Method, Summary


@dataclass(frozen=True)
class Narrowed(Effect):
    """These neurons are gone from the feed-forward layers, or silent in place."""

    removed: tuple[int, ...]  # how many of each layer
    which: str  # a digest of them
    masked: bool = False


@dataclass(frozen=True)
class Neurons(Method):
    """Remove the feed-forward neurons with the lowest scores, compared through all layers.

    Attributes:
        prune_ratio: share of all neurons that may go.
        max_prune_per_layer: share of a layer that may go.
        min_neurons_per_layer: what a layer keeps in any case.
        layer_scale: what scores are multiplied by in the early, middle and late third of each
            tower's depth; low: more goes.
        score: `activation`: how a neuron fires; `weight`: its squared weights; `gradient`:
            |gradient * weight|; `wanda`: |W| * ||X|| of the weights out of it.
        weights: of mean, largest and activity in the score `activation`; they sum to one.
        against: whether values are measured against their layer, or the whole model.
        answers_only: leave prompts out of the statistics where the data gives answers.
        edge_protect: the first and last layers of each tower, so many, get back a share of theirs.
        edge_share: that share; of what goes there the lowest-scored stays gone.
        round_to: kept widths are multiples of it, such as 64, which hardware likes.
        uniform: all layers keep the same number, which plain transformers loads as it is.
        mode: `slice`, or `mask`, which leaves zeros: the same function, and nothing gets smaller.
    """

    prune_ratio: float = 0.0
    max_prune_per_layer: float = 0.45
    min_neurons_per_layer: int = 1
    layer_scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    score: Score = "activation"
    weights: tuple[float, float, float] = (0.7, 0.2, 0.1)
    against: Against = "layer"
    answers_only: bool = False
    edge_protect: int = 2
    edge_share: float = 0.5
    round_to: int = 1
    uniform: bool = False
    mode: Literal["slice", "mask"] = "slice"

    def __post_init__(self) -> None:
        for name in ("prune_ratio", "max_prune_per_layer"):
            self.require(name, 0 <= getattr(self, name) < 1, f"0 <= {name} < 1")
        self.require("edge_share", 0 <= self.edge_share <= 1, "0 to 1")
        for name, least in (("min_neurons_per_layer", 1), ("edge_protect", 0), ("round_to", 1)):
            value = getattr(self, name)
            self.require(name, type(value) is int and value >= least, f"a number from {least}")
        self.require("score", self.score in _MEASURED, ", ".join(_MEASURED))
        self.require("against", self.against in ("layer", "model"), "layer, model")
        self.require("mode", self.mode in ("slice", "mask"), "slice, mask")
        for name in ("layer_scale", "weights"):
            value = tuple(float(one) for one in getattr(self, name))
            object.__setattr__(self, name, value)
            ok = len(value) == 3 and all(0 <= one < float("inf") for one in value)
            self.require(name, ok, "three numbers from 0")
        whole = abs(sum(self.weights) - 1) < 1e-6
        self.require("weights", whole, "three numbers that sum to one")

    @property
    def idle(self) -> bool:
        return self.prune_ratio == 0

    def settings(self) -> dict[str, Any]:
        """For people: those fields that say anything but the defaults."""
        usual = {one.name: one.default for one in fields(self)}
        return {name: value for name, value in super().settings().items() if value != usual[name]}

    def calibrator(self) -> type[Calibrates] | None:
        if self.prune_ratio == 0:
            return None
        kind = _MEASURED[self.score]
        return AnswerActivations if self.answers_only and kind is Activations else kind

    @staticmethod
    @torch.no_grad()
    def check(bench: Bench) -> list[int]:
        """How wide the bench's model's layers are.

        Raises PlanError where neurons cannot be taken out of them: where something between the
        linears looks at all neurons together, so that cut is not masked.
        """
        batch = {name: value[:2] for name, value in next(bench.batches("calibration")).items()}
        weights = Weights.calibrate(bench.model, [])
        said, widths = [], [one.width for one in ffns(bench.model)]
        for mode in ("slice", "mask"):
            own = fork(bench.model)
            Neurons(0.25, score="weight", edge_protect=0, mode=mode).apply(own, weights)  # type: ignore[arg-type]
            with contextlib.suppress(RuntimeError):  # shapes that no longer fit
                said.append(own(**ready(own, batch)).logits.float())
        share = 1e-3 if bench.model.dtype == torch.float32 else 5e-2
        allowed = share * max(float(said[-1].abs().max()), 1e-3)
        if len(said) < 2 or not torch.allclose(said[0], said[1], rtol=0, atol=allowed):
            raise PlanError(
                f"{type(bench.model).__name__} ({bench.model.config.model_type}): its feed-forward "
                "layers look at all their neurons together, so none can be taken out"
            )
        return widths

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        widths = [one.width for one in ffns(model)]
        if self.prune_ratio == 0:
            return self._summary(widths, [])
        self._check(widths)
        gone = removals(self.scores(model, stats), self._rule, towers(model))
        (cut if self.mode == "slice" else silence_neurons)(model, gone)
        return self._summary(widths, gone)

    def scores(self, model: PreTrainedModel, stats: Stats) -> list[Tensor]:
        """One score per neuron of each layer, (neurons,) float64 on the CPU; the lowest may go."""
        if self.score == "activation":
            parts = [per_layer(stats, name) for name in ("mean", "max", "activity")]
            found = activation_scores(parts[0], parts[1], parts[2], self.weights, self.against)
        else:
            found = relative(per_layer(stats, self.score), self.against)
        if not all(bool(torch.isfinite(one).all()) for one in found):
            raise PlanError(f"score {self.score}: not all are finite numbers")
        scales = [self.layer_scale[third] for third in thirds(towers(model))]
        return [scale * one for scale, one in zip(scales, found, strict=True)]

    @property
    def _rule(self) -> Rule:
        return Rule(
            ratio=self.prune_ratio,
            most=self.max_prune_per_layer,
            least=self.min_neurons_per_layer,
            edges=self.edge_protect,
            edge_share=self.edge_share,
            round_to=self.round_to,
            uniform=self.uniform,
        )

    def _check(self, widths: list[int]) -> None:
        """Raises PlanError where no layer may give anything."""
        if any(limit(width, self._rule) for width in widths):
            return
        raise PlanError(
            "no neuron may go: max_prune_per_layer and min_neurons_per_layer",
            got=[self.max_prune_per_layer, self.min_neurons_per_layer],
            allowed=f"less than the {max(widths)} neurons of a layer to be kept",
        )

    def _summary(self, widths: list[int], gone: list[Tensor]) -> Summary:
        removed = [int(one.sum()) for one in gone] or [0] * len(widths)
        total, kept = sum(removed), [w - r for w, r in zip(widths, removed, strict=True)]
        which = digest_tensors({str(number): one for number, one in enumerate(gone)})
        effect = Narrowed(tuple(removed), which, self.mode == "mask")
        done = "neurons_removed" if self.mode == "slice" else "neurons_masked"
        picture = Bars("Neurons kept per layer", kept, label="neurons", axis="layer")
        return Summary(
            (effect,) if total else (),
            {done: total, "neurons": sum(widths) - (total if self.mode == "slice" else 0)},
            {"widths": kept},
            (picture,) if total else (),
            label=f"Neurons {100 * self.prune_ratio:.4g} % {self.score}",
        )


_MEASURED: dict[Score, type[Calibrates]] = {
    "activation": Activations,
    "weight": Weights,
    "gradient": Gradients,
    "wanda": Activations,
}
