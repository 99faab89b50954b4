"""What samplers and schedulers can be told: their own settings, by the name a study file gives."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from search.study.messages import explain
from search.study.schema import Direction, SamplerSpec, SchedulerSpec
from trainables.core.errors import UserError, did_you_mean
from trainables.core.spec import Count, Spec


class TpeOptions(Spec):
    """What did best on a synthetic depth search with one 0/1 per block."""

    n_startup_trials: Count = 10
    n_ei_candidates: Count = 24
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True


class GeneticOptions(Spec):
    """NSGA-II and NSGA-III. No population size: a tenth of the trials, between 10 and 50."""

    population_size: int | None = Field(None, ge=2)
    mutation_prob: float | None = Field(None, ge=0, le=1)
    crossover_prob: float = Field(0.9, ge=0, le=1)
    swapping_prob: float = Field(0.5, ge=0, le=1)


class LevelSwitchOptions(Spec):
    """How many units of each set to omit, and how many trials one parent gets."""

    drop: Count | None = None  # as many as the parent does
    offspring: Count = 16


class Range(Spec):
    """A part of a parameter's range, both ends included."""

    low: float
    high: float


class Phase(Spec):
    """What one phase tries, and which earlier phase's best it starts from."""

    name: str | None = None
    best_of: str | int | tuple[str | int, ...] | None = None  # by name, or by number from 1
    by: str | None = None  # the metric that tells the best; None: the first objective
    points: tuple[dict[str, Any], ...] = ()
    vary: dict[str, Range | list[Any]] = Field(default={})
    around: float | None = Field(None, gt=0, le=1)
    trials: Count | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [name for name in ("points", "vary", "around") if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError("one of points, vary and around")
        if self.around is not None and self.best_of is None:
            raise ValueError("around needs best_of: whose best is meant")
        if any(isinstance(one, Range) for one in self.vary.values()) and self.trials is None:
            raise ValueError("ranges need trials: how many to draw")
        if empty := [name for name, one in self.vary.items() if one == []]:
            raise ValueError(f"vary: no values for {', '.join(empty)}")
        return self


class PhasesOptions(Spec):
    """The phases, in order."""

    phases: tuple[Phase, ...] = Field(min_length=1)

    def called(self, at: int) -> str:
        """What messages call a phase."""
        name = self.phases[at].name
        return f"phase {at + 1}" + (f" ({name})" if name else "")

    def starts_from(self, at: int) -> tuple[int, ...]:
        """The phases, from 0, whose best a phase starts from.

        Raises UserError where it names itself, a later one, or none there is.
        """
        given = self.phases[at].best_of
        several = () if given is None else given if isinstance(given, tuple) else (given,)
        return tuple(self._place(one, at) for one in several)

    def _place(self, given: str | int, at: int) -> int:
        names = [phase.name for phase in self.phases]
        place = given - 1 if isinstance(given, int) else None
        if given in names:
            place = names.index(str(given))
        if place is not None and 0 <= place < at:
            return place
        known = ", ".join(self.called(n) for n in range(at)) or "none, as it is the first"
        later = place is not None and at <= place < len(self.phases)
        do = f"{self.called(int(place or 0))} does not come before it" if later else ""
        raise UserError(f"sampler.phases[{at}].best_of", got=given, allowed=known, do=do)

    def problems(self, measured: Mapping[str, object]) -> Iterator[UserError]:
        """What is wrong between the phases, and with metrics that no trial reports."""
        names = [phase.name for phase in self.phases if phase.name is not None]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield UserError("sampler.phases: two of one name", got=name, do="rename one")
        for at, phase in enumerate(self.phases):
            try:
                self.starts_from(at)
            except UserError as error:
                yield error
            if phase.around is not None and phase.trials is None and at < len(self.phases) - 1:
                what = f"sampler.phases[{at}].trials: missing"
                yield UserError(what, allowed="how many; only the last phase has no end")
            if phase.by is not None and phase.by not in measured:
                what = f"sampler.phases[{at}].by: {phase.by} is not measured by this study"
                do = did_you_mean(phase.by, measured) or "add it to [objectives] or [constraints]"
                yield UserError(what, allowed=", ".join(measured), do=do)


class AshaOptions(Spec):
    """Steps count a trial's reports of progress."""

    grace_period: Count = 1
    reduction_factor: float = Field(3.0, gt=1)
    max_t: Count = 100


class MedianOptions(Spec):
    """Steps count a trial's reports of progress."""

    grace_period: Count = 1
    min_samples_required: Count = 3


class RacingOptions(Spec):
    """Which share of the search items is looked at first, and how it grows."""

    first: float = Field(0.125, gt=0, lt=1)
    factor: float = Field(2.0, gt=1)


class NoOptions(Spec):
    """Nothing can be set."""


SAMPLERS: Mapping[str, type[Spec]] = {
    "auto": NoOptions,
    "bayesian": NoOptions,
    "tpe": TpeOptions,
    "nsga2": GeneticOptions,
    "nsga3": GeneticOptions,
    "random": NoOptions,
    "grid": NoOptions,
    "level-switch": LevelSwitchOptions,
    "phases": PhasesOptions,
}
SCHEDULERS: Mapping[str, type[Spec]] = {
    "none": NoOptions,
    "asha": AshaOptions,
    "median": MedianOptions,
    "racing": RacingOptions,
}


def sampler_options(spec: SamplerSpec) -> Spec:
    """A sampler's own settings. Raises ValidationError."""
    return SAMPLERS[spec.name].model_validate_json(
        json.dumps(spec.options, default=str), strict=True
    )


def sampler_problems(
    spec: SamplerSpec, measured: Mapping[str, object] | None = None
) -> list[UserError]:
    """What is wrong with a [sampler] table.

    Args:
        measured: the metrics that a trial reports.
    """
    if ":" in spec.name:
        return []
    if spec.name not in SAMPLERS:
        allowed = f'{", ".join(SAMPLERS)}, or "package.module:factory"'
        hint = did_you_mean(spec.name, SAMPLERS)
        return [UserError("sampler.name", got=spec.name, allowed=allowed, do=hint)]
    try:
        options = sampler_options(spec)
    except ValidationError as error:
        return explain(error, SAMPLERS[spec.name], "sampler.")
    return list(options.problems(measured or {})) if isinstance(options, PhasesOptions) else []


def scheduler_problems(spec: SchedulerSpec, objectives: Mapping[str, Direction]) -> list[UserError]:
    """What is wrong with a [scheduler] table."""
    try:
        SCHEDULERS[spec.name].model_validate(spec.options, strict=True)
    except ValidationError as error:
        return explain(error, SCHEDULERS[spec.name], "scheduler.")
    if spec.name == "none":
        return []
    if spec.name == "racing":
        return _racing_problems(spec)
    if spec.metric is None and len(objectives) > 1:
        allowed = ", ".join(objectives)
        do = f"{spec.name} watches one metric: say which one"
        return [UserError("scheduler.metric: missing", allowed=allowed, do=do)]
    if spec.mode is None and spec.metric is not None and spec.metric not in objectives:
        do = f'{spec.metric} is no objective: say whether to keep its "min" or its "max"'
        return [UserError("scheduler.mode: missing", allowed='"min" or "max"', do=do)]
    return []


def _racing_problems(spec: SchedulerSpec) -> list[UserError]:
    given = [name for name in ("metric", "mode") if getattr(spec, name) is not None]
    do = "leave it out: racing decides by all objectives and constraints"
    return [UserError(f"scheduler.{name}", got=getattr(spec, name), do=do) for name in given]


def watched(
    spec: SchedulerSpec, objectives: Mapping[str, Direction]
) -> tuple[str, Direction] | None:
    """The metric a scheduler watches and its direction; None where nothing is stopped."""
    if spec.name in ("none", "racing"):
        return None
    metric = spec.metric or next(iter(objectives))
    return metric, spec.mode or objectives[metric]
