"""A layer of a language model in a small model (PiFi): which layer, of which model, how trained.

The layer is ILM's pick, the last one, any one, or none: the same head and training without a
layer, which is what plugging in has to beat. `seeds` repeats every arm; arms of one seed begin
with the same head and see the examples in the same order, so that they can be compared in pairs.
"""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Literal, Self, TypeAlias

from pydantic import model_validator

from spaces.space import Choices, Point, Space, Trial
from trainables.core.errors import PlanError
from trainables.core.spec import Count, Seed, TrainSpec
from trainables.ilm import ILM, Selection
from trainables.ilm.method import Score
from trainables.ilm.states import Pooling as Looked
from trainables.plugin.donor import Donor
from trainables.plugin.method import AS_PUBLISHED, PlugIn
from trainables.plugin.model import Pooling
from trainables.recover import Recover
from trainables.stage import Bench, Facts, Stage

Which: TypeAlias = Literal["none", "ilm", "last", "any", "random", "learning", "two"]


class PlugInSpace(Space):
    """Parameters `plugin.layer` and, where there is a choice, `plugin.donor`, `plugin.seed`,
    `plugin.pooling`, `recover.lr`, `recover.epochs`; for any layer `plugin.number.DONOR`.

    Attributes:
        donors: hub ids, folders or asset:NAME.
        which: `none`: no layer; `ilm`: what ILM picks; `last`; `any`: each is a choice of its own.
            What the source ablates: `random`, the last one with new weights; `learning`, the last
            one, trained along; `two`, the last two.
        effects: look at the layers by ILM even where it picks none, to tell how well its effects
            rank them.
        selection: a JSON file with the layer to take for `ilm`, instead of looking.
        n_pcs, top_pc, n_samples, score, looked, max_length, seed: how ILM looks.
        recover: how every arm is trained.
    """

    donors: Choices[str]
    which: Choices[Which] = ("none", "last", "ilm")
    seeds: Choices[Seed] = (2023,)
    pooling: Choices[Pooling] = ("first",)
    lr: Choices[float] = ()  # type: ignore[assignment]
    epochs: Choices[Count] = ()  # type: ignore[assignment]
    effects: bool = True
    selection: str = ""
    n_pcs: Count = 16
    top_pc: Count = 5
    n_samples: Count = 400
    score: Score = "in_sample"
    looked: Looked = "mean"
    max_length: Count = 128
    seed: Seed = 2023
    recover: TrainSpec = AS_PUBLISHED

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.top_pc > self.n_pcs:
            raise PlanError("top_pc", got=self.top_pc, allowed=f"up to n_pcs = {self.n_pcs}")
        names = [_slug(donor) for donor in self.donors]
        if len(set(names)) < len(names):
            raise PlanError("donors", got=list(self.donors), allowed="names that differ")
        if self.selection and len(self.donors) > 1:
            raise PlanError("selection with several donors", allowed="one donor")
        if self.selection:
            Selection.read(self.selection)
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """How many layers each donor has; what no trial could do is refused, and what every trial
        needs to know of the layers is measured."""
        counts = {donor: Donor(donor).count for donor in self.donors}
        arms = [arm for arm in self.which if bench.data.task == "classification" or arm != "none"]
        for donor in self.donors:
            for arm in arms:
                self._arm(arm, donor, self.pooling[0], 0, self.recover, number=0).check(bench)
            if self._looks(arms):
                self._look(donor).find(bench)
        return {"layers": counts} | super().survey(bench)

    def starts(self, facts: Facts) -> list[Point]:
        """Every arm that is no range, with every seed: the comparison comes before the search."""
        return [
            self._point(arm, donor, seed)
            for seed in self.seeds
            for arm in self.which
            if arm != "any"
            for donor in (self.donors if arm != "none" else self.donors[:1])
        ]

    def _point(self, arm: Which, donor: str, seed: int) -> Point:
        point: Point = {"plugin.layer": arm}
        if arm != "none" and len(self.donors) > 1:
            point["plugin.donor"] = donor
        if len(self.seeds) > 1:
            point["plugin.seed"] = seed
        for name, choices in self._further().items():
            if len(choices) > 1:
                point[name] = choices[0]
        return point

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        arm: Which = _asked(trial, "plugin.layer", self.which, always=True)
        donor, number = self.donors[0], 0
        if arm != "none":
            donor = _asked(trial, "plugin.donor", self.donors)
        if arm == "any":
            count = facts.survey["layers"][donor]
            number = trial.suggest_int(f"plugin.number.{_slug(donor)}", 0, count - 1)
        seed = _asked(trial, "plugin.seed", self.seeds)
        found = [_asked(trial, name, choices) for name, choices in self._further().items()]
        pooling, lr, epochs = found
        training = self.recover.model_copy(update={"lr": lr, "epochs": epochs, "seed": seed})
        return [self._arm(arm, donor, pooling, seed, training, number)]

    def _further(self) -> dict[str, tuple[Any, ...]]:
        return {
            "plugin.pooling": self.pooling,
            "recover.lr": self.lr or (self.recover.lr,),
            "recover.epochs": self.epochs or (self.recover.epochs,),
        }

    def _arm(
        self, arm: Which, donor: str, pooling: Pooling, seed: int, training: TrainSpec, number: int
    ) -> PlugIn:
        if arm == "none":
            return PlugIn(pooling=pooling, seed=seed, training=Recover(training))
        layer: int | None = {"any": number, "two": -2}.get(arm, -1)
        if arm == "ilm":
            layer = Selection.read(self.selection).best_llm_layer if self.selection else None
        return PlugIn(
            donor,
            layer,
            self._look(donor) if self._looks([arm]) else None,
            layers=2 if arm == "two" else 1,
            pooling=pooling,
            frozen=arm != "learning",
            random=arm == "random",
            seed=seed,
            training=Recover(training),
        )

    def _looks(self, arms: Sequence[Which]) -> bool:
        """Whether ILM looks at the layers."""
        looked = {"ilm", "last", "any"} if self.effects else {"ilm"}
        return not self.selection and bool(looked & set(arms))

    def _look(self, donor: str) -> ILM:
        return ILM(
            donor,
            n_pcs=self.n_pcs,
            top_pc=self.top_pc,
            n_samples=self.n_samples,
            seed=self.seed,
            pooling=self.looked,
            score=self.score,
            max_length=self.max_length,
        )


def _asked(trial: Trial, name: str, choices: tuple[Any, ...], *, always: bool = False) -> Any:
    """What the trial chooses; a single choice is no parameter."""
    if len(choices) == 1 and not always:
        return choices[0]
    return trial.suggest_categorical(name, list(choices))


def _slug(donor: str) -> str:
    """A donor's name as a part of a parameter's."""
    return PurePath(donor.removeprefix("asset:")).name.replace(".", "-")
