"""PiFi: one frozen layer of a large language model inside a small one, then fine-tuning.

Source: "Plug-in and Fine-tuning: Bridging the Gap between Small Language Models and Large Language
Models", Kim et al., ACL 2025 (arXiv 2506.07424); what it ablates are fields here: which layer,
several layers, random weights, a layer that learns.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from trainables.bench.metrics.cost import count_parameters
from trainables.core.errors import PlanError
from trainables.core.lineage import Effect
from trainables.core.pictures import Picture
from trainables.core.places import called
from trainables.core.spec import TrainSpec
from trainables.core.types import Progress
from trainables.ilm.method import ILM
from trainables.plugin.donor import Donated, Donor
from trainables.plugin.model import Pooling, check_classifier, plugged
from trainables.recover import Recover
from trainables.stage import Bench, Stage, Subject, Summary

AS_PUBLISHED = TrainSpec(
    epochs=3,
    lr=5e-5,
    optimiser="adam",
    schedule="constant",
    batch_size=32,
    label_smoothing=0.05,
    clip=5.0,
    best="accuracy",
)
LOOKED = ("n_pcs", "top_pc", "lambdas", "n_samples", "pooling", "score")  # what ILM's pick hangs on


@dataclass(frozen=True)
class Plugged(Effect):
    """Layers of another model, projections and a head were put in, new ones from a seed."""

    layers: str  # a digest of their weights; empty for none
    kind: str  # of the model they are from
    pooling: str
    dropout: float
    frozen: bool
    seed: int


@dataclass(frozen=True)
class PlugIn(Stage):
    """Put layers of `donor` into the model and fine-tune it on the data's `train` role.

    A classifier gets a new head, whatever head it had. An encoder-decoder keeps its own, and the
    layers stand between its encoder and its decoder.

    Attributes:
        donor: a hub id, a local folder or asset:NAME; empty: no layer, and the same head and
            training, to compare with.
        layer: from 0 on, or from the end: -1 is the last; None: ILM's pick, or else the last.
        choose: how ILM looks at the donor's layers; with `layer` its effect is only noted.
        layers: how many in a row, from `layer` on.
        pooling: what of a text goes into the layer: its first token, or the mean of all.
        frozen: whether the layers stay as they are.
        random: layers with new weights instead of the trained ones.
        dropout: of the head.
        seed: of the projections and the head.
    """

    donor: str = ""
    layer: int | None = None
    choose: ILM | None = None
    layers: int = 1
    pooling: Pooling = "first"
    frozen: bool = True
    random: bool = False
    dropout: float = 0.2
    seed: int = 2023
    training: Recover = field(default_factory=lambda: Recover(AS_PUBLISHED))

    def __post_init__(self) -> None:
        self.require("layers", type(self.layers) is int and self.layers >= 1, "from 1 on")
        number = self.layer is None or type(self.layer) is int
        self.require("layer", number, "a whole number, or none")
        kinds = get_args(Pooling)
        self.require("pooling", self.pooling in kinds, " or ".join(kinds))
        self.require("dropout", 0 <= self.dropout < 1, "0 <= dropout < 1")
        self.require("seed", type(self.seed) is int and self.seed >= 0, "from 0 on")
        if self.choose is not None:
            same = self.choose.donor == self.donor
            self.require("choose", same, f'one that looks at donor = "{self.donor}"')

    def settings(self) -> dict[str, Any]:
        """In one level, as people read them; what is not there is left out."""
        own = ("donor", "layer", "layers", "pooling", "frozen", "random", "dropout", "seed")
        found = {name: getattr(self, name) for name in own} | {"donor": called(self.donor)}
        if self.layer is not None:
            found["layer"] = str(self.layer)  # 0 is a layer, too, and nothing to leave out
        if self.choose is not None:
            looked = {f"choose.{name}": getattr(self.choose, name) for name in LOOKED}
            found |= {"choose": "ILM", **looked}
        return found | self.training.settings()

    def check(self, bench: Bench) -> None:
        """Raises UserError where this cannot be done to the bench's model, or on its data."""
        self.training.check(bench)
        if bench.data.task not in ("classification", "generation"):
            raise PlanError(
                "PlugIn on this task", got=bench.data.task, allowed="classification, generation"
            )
        if bench.data.task == "classification":
            check_classifier(bench.model, self.pooling)
        elif not bench.model.config.is_encoder_decoder or not self.donor:
            raise PlanError("PlugIn on generation: only a donor's layer in an encoder-decoder")
        if self.donor:
            Donor(self.donor).number(-1 if self.layer is None else self.layer)
        if self.choose is not None:
            self.choose.check(bench)

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Choose the layer, put it in, train."""
        self.check(bench)
        found = bench.subject
        chosen = None if self.choose is None else self.choose.find(bench)
        donated = self._donated(None if chosen is None else chosen.best)
        effect = self._effect(donated)
        bench.subject = self._in(found, donated).after(self, Summary((effect,)))
        added = count_parameters(bench.model) - count_parameters(found.model)
        trained = yield from self.training.on(bench)
        bench.subject = replace(found, model=bench.model)
        counts, details = dict(trained.counts), dict(trained.details)
        counts |= {
            "added_parameters": added,
            "donor_bytes": 0 if donated is None else donated.bytes,
        }
        pictures: tuple[Picture, ...] = ()
        if donated is not None:
            counts["layer"] = donated.numbers[0]
            details |= {"donor": donated.name, "licence": donated.licence}
        if chosen is not None and self.choose is not None and donated is not None:
            told = self.choose.told(chosen, donated.numbers[0])
            pictures = told.pictures
            counts, details = {**counts, **told.counts}, {**details, **told.details}
        effects = (effect, *trained.effects)
        return Summary(effects, counts, details, pictures, self._label(donated))

    def _donated(self, pick: int | None) -> Donated | None:
        if not self.donor:
            return None
        donor = Donor(self.donor)
        wanted = self.layer if self.layer is not None else pick
        first = donor.number(donor.count - self.layers if wanted is None else wanted)
        return donor.give(range(first, first + self.layers), random=self.random)

    def _effect(self, donated: Donated | None) -> Plugged:
        return Plugged(
            layers="" if donated is None else donated.identity,
            kind="" if donated is None else str(donated.config.model_type),
            pooling=self.pooling,
            dropout=self.dropout,
            frozen=self.frozen,
            seed=self.seed,
        )

    def _in(self, subject: Subject, donated: Donated | None) -> Subject:
        model = plugged(
            subject.model,
            donated,
            pooling=self.pooling,
            dropout=self.dropout,
            frozen=self.frozen,
            random=self.random,
            seed=self.seed,
        )
        return replace(subject, model=model)

    def _label(self, donated: Donated | None) -> str:
        if donated is None:
            return "no layer"
        numbers = "+".join(map(str, donated.numbers))
        marks: Mapping[str, bool] = {"random": self.random, "learning": not self.frozen}
        told = " ".join(name for name, on in marks.items() if on)
        name = donated.name.rpartition("/")[2]
        return f"{name} layer {numbers} {told}".strip()
