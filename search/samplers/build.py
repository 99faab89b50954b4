"""Who proposes the points: names of a study file -> Optuna's samplers."""

import random
import warnings
from collections.abc import Mapping

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from pydantic import BaseModel, Field, ValidationError

from search.errors import UserError, did_you_mean
from search.study.messages import explain
from search.samplers.grid import Ask, GridSampler, grid_points
from search.study.space import bind, find_function
from search.study.schema import SamplerSpec
from trainables.core.spec import Count, Spec

MANY = 1000  # trials from which NSGA-II's cheap proposals pay


class NoOptions(Spec):
    """A sampler without settings."""


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


OPTIONS: Mapping[str, type[Spec]] = {
    "auto": NoOptions,
    "tpe": TpeOptions,
    "nsga2": GeneticOptions,
    "nsga3": GeneticOptions,
    "random": NoOptions,
    "grid": NoOptions,
}


def sampler_problems(spec: SamplerSpec) -> list[UserError]:
    """What is wrong with a [sampler] table."""
    if ":" in spec.name:
        return []
    model = OPTIONS.get(spec.name)
    if model is None:
        allowed = f'{", ".join(OPTIONS)}, or "package.module:factory"'
        hint = did_you_mean(spec.name, OPTIONS)
        return [UserError("sampler.name", got=spec.name, allowed=allowed, do=hint)]
    try:
        model.model_validate(spec.options, strict=True)
    except ValidationError as error:
        return explain(error, model, "sampler.")
    return []


def make_sampler(
    spec: SamplerSpec, *, seed: int, existing: int, trials: int | None, ask: Ask
) -> BaseSampler:
    """The sampler of a study that already has `existing` trials and wants `trials` in all."""
    name = spec.name
    if name == "auto":
        name = "nsga2" if (trials or 0) > MANY else "tpe"
    fresh = fresh_seed(seed, existing)
    if name == "grid":
        return GridSampler(grid_points(ask), seed)
    if ":" in name:
        return _users_own(spec, fresh)
    options: BaseModel = OPTIONS[name].model_validate(spec.options)
    if isinstance(options, TpeOptions):
        return _tpe(options, fresh)
    if isinstance(options, GeneticOptions):
        return _genetic(
            NSGAIISampler if name == "nsga2" else NSGAIIISampler, options, fresh, trials
        )
    return RandomSampler(seed=fresh)


def fresh_seed(seed: int, existing: int) -> int:
    """A seed of its own for every resumption, which would else propose the first points again."""
    return random.Random(f"{seed}/{existing}").getrandbits(32)


def _tpe(options: TpeOptions, seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            n_startup_trials=options.n_startup_trials,
            n_ei_candidates=options.n_ei_candidates,
            multivariate=options.multivariate,
            group=options.group and options.multivariate,
            constant_liar=options.constant_liar,
            seed=seed,
        )


def _genetic(
    kind: type[NSGAIISampler] | type[NSGAIIISampler],
    options: GeneticOptions,
    seed: int,
    trials: int | None,
) -> BaseSampler:
    tenth = max(10, min(50, (trials or 500) // 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return kind(
            population_size=options.population_size or tenth,
            mutation_prob=options.mutation_prob,
            crossover_prob=options.crossover_prob,
            swapping_prob=options.swapping_prob,
            seed=seed,
        )


def _users_own(spec: SamplerSpec, seed: int) -> BaseSampler:
    """A user's factory: `make(*, seed, ...) -> optuna.samplers.BaseSampler`."""
    factory = find_function(spec.name, "sampler")
    sampler = bind(factory, {**spec.options, "seed": seed}, "sampler", spec.name)()
    if not isinstance(sampler, BaseSampler):
        raise UserError(
            f"sampler {spec.name}",
            got=type(sampler).__name__,
            allowed="a function that returns an Optuna sampler",
        )
    return sampler
