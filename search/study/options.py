"""What samplers and schedulers can be told: their own settings, by the name a study file gives."""

from collections.abc import Mapping

from pydantic import Field, ValidationError

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


class AshaOptions(Spec):
    """Steps count a trial's reports of progress."""

    grace_period: Count = 1
    reduction_factor: float = Field(3.0, gt=1)
    max_t: Count = 100


class MedianOptions(Spec):
    """Steps count a trial's reports of progress."""

    grace_period: Count = 1
    min_samples_required: Count = 3


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
}
SCHEDULERS: Mapping[str, type[Spec]] = {
    "none": NoOptions,
    "asha": AshaOptions,
    "median": MedianOptions,
}


def sampler_problems(spec: SamplerSpec) -> list[UserError]:
    """What is wrong with a [sampler] table."""
    if ":" in spec.name:
        return []
    model = SAMPLERS.get(spec.name)
    if model is None:
        allowed = f'{", ".join(SAMPLERS)}, or "package.module:factory"'
        hint = did_you_mean(spec.name, SAMPLERS)
        return [UserError("sampler.name", got=spec.name, allowed=allowed, do=hint)]
    try:
        model.model_validate(spec.options, strict=True)
    except ValidationError as error:
        return explain(error, model, "sampler.")
    return []


def scheduler_problems(spec: SchedulerSpec, objectives: Mapping[str, Direction]) -> list[UserError]:
    """What is wrong with a [scheduler] table."""
    try:
        SCHEDULERS[spec.name].model_validate(spec.options, strict=True)
    except ValidationError as error:
        return explain(error, SCHEDULERS[spec.name], "scheduler.")
    if spec.name == "none":
        return []
    if spec.metric is None and len(objectives) > 1:
        allowed = ", ".join(objectives)
        do = f"{spec.name} watches one metric: say which one"
        return [UserError("scheduler.metric: missing", allowed=allowed, do=do)]
    if spec.mode is None and spec.metric is not None and spec.metric not in objectives:
        do = f'{spec.metric} is no objective: say whether to keep its "min" or its "max"'
        return [UserError("scheduler.mode: missing", allowed='"min" or "max"', do=do)]
    return []


def watched(
    spec: SchedulerSpec, objectives: Mapping[str, Direction]
) -> tuple[str, Direction] | None:
    """The metric a scheduler watches and its direction; None where nothing is stopped."""
    if spec.name == "none":
        return None
    metric = spec.metric or next(iter(objectives))
    return metric, spec.mode or objectives[metric]
