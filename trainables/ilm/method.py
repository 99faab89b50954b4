"""ILM: which layer of a language model to plug into a small one, by PC patching.

The stage measures and changes nothing. All that is costly (states, probes, components) is shared,
so that a trial with other numbers of components takes a moment. An effect of a few points is near
the noise of a few hundred samples: the bootstrap says how often each layer would be picked, and the
held-out variant judges samples that nothing was fitted on.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from trainables.core.pictures import Bars
from trainables.core.places import called
from trainables.core.types import Progress
from trainables.ilm.compare import Bootstrap, bootstrap, description_length, fisher
from trainables.ilm.compare import mean_correlation as mean_of
from trainables.ilm.effects import Answers, answers, answers_held_out, best_layer, correlations
from trainables.ilm.selection import Selection
from trainables.ilm.states import Measured, Pooling, draw, measured
from trainables.stage import Bench, Stage, Summary

Score: TypeAlias = Literal["in_sample", "held_out"]
Compared: TypeAlias = Literal["correlation", "fisher", "mdl"]


@dataclass(frozen=True)
class Found:
    """What ILM measured.

    Attributes:
        selection: the layer, and the effects as shares.
        noise: what becomes of them where the samples are drawn anew.
        others: score -> one value per layer, for comparison.
    """

    selection: Selection
    noise: Bootstrap
    others: dict[str, tuple[float, ...]]

    @property
    def best(self) -> int:
        return self.selection.best_llm_layer

    @property
    def picks(self) -> dict[str, int]:
        """Which layer each score would choose; of a description length the least."""
        signs = {"mdl": -1.0}
        return {
            name: best_layer([signs.get(name, 1.0) * value for value in values])
            for name, values in self.others.items()
        }


@dataclass(frozen=True)
class ILM(Stage):
    """Choose a layer of `donor` by what PC patching does to a probe on its states.

    Attributes:
        donor: the language model: a hub id, a local folder or asset:NAME.
        n_pcs: principal components per layer, as far as there are so many.
        top_pc: how many of them, those that go best with the labels, are patched.
        lambdas: the shares of them that are taken out; the effect is the largest loss.
        n_samples: texts of the calibration role.
        pooling: of a text's tokens; a causal model's first token sees nothing but itself.
        score: held_out judges each fifth of the samples by what the others were fitted on.
        compare: other scores to tell along.
        draws: of the bootstrap.
        dtype: in which the donor runs; its states are kept in float32.
    """

    donor: str
    n_pcs: int = 16
    top_pc: int = 5
    lambdas: tuple[float, ...] = (0.5, 1.0)
    n_samples: int = 400
    seed: int = 2023
    pooling: Pooling = "mean"
    max_length: int = 128
    score: Score = "in_sample"
    compare: tuple[Compared, ...] = ("correlation", "fisher")
    draws: int = 1000
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("n_pcs", "top_pc", "max_length", "draws"):
            value = getattr(self, name)
            self.require(name, type(value) is int and value >= 1, "a whole number from 1 on")
        self.require("top_pc", self.top_pc <= self.n_pcs, f"up to n_pcs = {self.n_pcs}")
        few = type(self.n_samples) is int and self.n_samples >= 10
        self.require("n_samples", few, "a whole number from 10 on")
        shares = bool(self.lambdas) and all(0 <= one <= 1 for one in self.lambdas)
        self.require("lambdas", shares, "one or more shares from 0 to 1")
        for name, kind in (("pooling", Pooling), ("score", Score)):
            self.require(name, getattr(self, name) in get_args(kind), " or ".join(get_args(kind)))
        known = set(self.compare) <= set(get_args(Compared))
        self.require("compare", known, f"some of {', '.join(get_args(Compared))}")

    def settings(self) -> dict[str, Any]:
        """As people read them: a folder by its name."""
        return {**super().settings(), "donor": called(self.donor)}

    def check(self, bench: Bench) -> None:
        """Raises UserError where the bench's data does not allow it."""
        draw(bench, self.n_samples, self.seed)

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Measure; the model stays as it is."""
        yield from ()
        return self.told(self.find(bench))

    def find(self, bench: Bench) -> Found:
        """The effects of all layers on the bench's texts."""
        seen = measured(
            bench,
            *(self.donor, self.n_samples, self.seed, self.pooling, self.max_length, self.dtype),
        )
        layers = self.answers(seen)
        effects = tuple(one.count / len(seen.labels) for one in layers)
        data = bench.spec.data
        dataset = called(data.dataset)
        selection = Selection(
            task=data.task,
            dataset=dataset if data.subset is None else f"{dataset}/{data.subset}",
            slm_type=called(bench.spec.model.id),
            llm_type=called(self.donor),
            n_samples=len(seen.labels),
            n_pcs=self.n_pcs,
            top_pc=self.top_pc,
            effects=effects,
            best_llm_layer=best_layer(effects),
            seed=self.seed,
        )
        return Found(selection, bootstrap(layers, self.draws, self.seed), self._others(seen))

    def answers(self, seen: Measured) -> list[Answers]:
        """Every layer's answers, before and after patching."""
        labels, settings = seen.labels, (self.top_pc, self.lambdas)
        if self.score == "held_out":
            parts = seen.parts(self.n_pcs, self.seed)
            pairs = zip(seen.layers(), parts, strict=True)
            return [answers_held_out(states, labels, part, *settings) for states, part in pairs]
        fitted = zip(seen.layers(), seen.bases(self.n_pcs), seen.probes(), strict=True)
        return [answers(states, labels, basis, probe, *settings) for states, basis, probe in fitted]

    def _others(self, seen: Measured) -> dict[str, tuple[float, ...]]:
        labels = seen.labels
        bases = seen.bases(self.n_pcs) if "correlation" in self.compare else []
        scores: dict[Compared, Any] = {
            "correlation": lambda: [
                mean_of(correlations(basis.scores, labels), self.top_pc) for basis in bases
            ],
            "fisher": lambda: [fisher(states, labels) for states in seen.layers()],
            "mdl": lambda: [description_length(one, labels, self.seed) for one in seen.layers()],
        }
        on = {"correlation": (self.n_pcs, self.top_pc), "fisher": (), "mdl": (self.seed,)}
        return {name: tuple(seen.plain((name, *on[name]), scores[name])) for name in self.compare}

    def told(self, found: Found, layer: int | None = None) -> Summary:
        """What a record has of it.

        Args:
            layer: the one that is used, where it is not the pick.
        """
        used = found.best if layer is None else layer
        effects, noise = found.selection.effects, found.noise
        counts = {
            "layer": used,
            "pick": found.best,
            "effect": effects[used],
            "frequency": noise.frequency[found.best],
        }
        counts |= {f"pick by {name}": pick for name, pick in found.picks.items()}
        details = {
            "selection": found.selection.to_dict(),
            "frequency": list(noise.frequency),
            "band": [list(noise.low), list(noise.high)],
            "others": {name: list(values) for name, values in found.others.items()},
        }
        picture = Bars(
            f"effect of each layer of {called(self.donor)}",
            effects,
            (found.best,),
            "answers lost by patching, share",
            f"layer (95 % of {self.draws} bootstrap draws)",
            band=_pairs(noise),
        )
        return Summary((), counts, details, (picture,), f"ILM layer {found.best}")


def _pairs(noise: Bootstrap) -> Sequence[Sequence[float]]:
    return tuple(zip(noise.low, noise.high, strict=True))
