"""Who proposes the points: names of a study file -> Optuna's samplers."""

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from pydantic import BaseModel

from search.samplers.bayesian.sampler import BayesianSampler
from search.samplers.grid import GridSampler, grid_points
from search.samplers.level_switch import LevelSwitchSampler
from search.samplers.phases import PhasesSampler
from search.samplers.points import Ask
from search.study.options import (
    GeneticOptions,
    LevelSwitchOptions,
    PhasesOptions,
    TpeOptions,
    sampler_options,
)
from search.study.schema import SamplerSpec
from search.study.space import find, ranges_of
from trainables.core.errors import UserError

FRESH = ("tpe", "nsga2", "nsga3", "random")  # of Optuna, with a random state in memory


@dataclass(frozen=True)
class Source:
    """Where the sampler of a proposal comes from, given how many trials there are and how many
    proposals came in vain. Nothing that an interruption would lose decides."""

    make: Callable[[int, int], BaseSampler]
    seed: int = 0

    def __call__(self, existing: int, attempt: int) -> BaseSampler:
        return self.make(existing, attempt)


def sampler_source(
    spec: SamplerSpec,
    *,
    seed: int,
    trials: int | None,
    ask: Ask,
    directions: Mapping[str, str] | None = None,
) -> Source:
    """A study's sampler: for every proposal a new one of those that keep a random state."""

    def make(existing: int, attempt: int) -> BaseSampler:
        return make_sampler(
            spec,
            seed=seed,
            existing=existing,
            attempt=attempt,
            trials=trials,
            ask=ask,
            directions=directions,
        )

    if spec.name in FRESH:
        return Source(make, seed)
    kept: list[BaseSampler] = []

    def keep(existing: int, attempt: int) -> BaseSampler:
        if not kept:
            kept.append(make(existing, attempt))
        return kept[0]

    return Source(keep, seed)


def make_sampler(
    spec: SamplerSpec,
    *,
    seed: int,
    existing: int,
    trials: int | None,
    ask: Ask,
    attempt: int = 0,
    directions: Mapping[str, str] | None = None,
) -> BaseSampler:
    """The sampler of a study that already has `existing` trials and wants `trials` in all.

    Args:
        attempt: how many proposals came in vain since the last trial.
        directions: metric -> min or max, for phases that go by one.
    """
    name = spec.name
    fresh = fresh_seed(seed, existing, attempt)
    if name in ("auto", "bayesian"):
        return BayesianSampler(ask, seed)
    if name == "grid":
        return GridSampler(grid_points(ask), seed)
    if ":" in name:
        return _users_own(spec, fresh)
    options: BaseModel = sampler_options(spec.model_copy(update={"name": name}))
    if isinstance(options, LevelSwitchOptions):  # which keeps nothing that a resumption would lose
        return LevelSwitchSampler(seed, drop=options.drop, offspring=options.offspring)
    if isinstance(options, PhasesOptions):
        return PhasesSampler(options, seed=seed, ask=ask, directions=directions or {})
    if isinstance(options, TpeOptions):
        return _tpe(options, fresh)
    if isinstance(options, GeneticOptions):
        return _genetic(
            NSGAIISampler if name == "nsga2" else NSGAIIISampler, options, fresh, trials
        )
    return RandomSampler(seed=fresh)


def fresh_seed(seed: int, existing: int, attempt: int = 0) -> int:
    """A seed of its own for every proposal, the same whether or not the search was interrupted."""
    return random.Random(f"{seed}/{existing}/{attempt}").getrandbits(32)


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
    factory, given = find(spec.name, "sampler"), {**spec.options, "seed": seed}
    sampler = factory(**ranges_of(factory, given, "sampler", spec.name))
    if not isinstance(sampler, BaseSampler):
        raise UserError(
            f"sampler {spec.name}",
            got=type(sampler).__name__,
            allowed="a function that returns an Optuna sampler",
        )
    return sampler
