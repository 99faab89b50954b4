"""Who proposes the points: names of a study file -> Optuna's samplers, and an exhaustive grid."""

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from pydantic import BaseModel, Field, ValidationError

from search.errors import UserError, did_you_mean
from search.explain import explain
from search.space import bind, find_function
from search.tables import SamplerSpec
from trainables.bench.spec import Count, Spec

Ask: TypeAlias = Callable[[Any], object]  # runs the space on a trial, or on what stands in for one
Point: TypeAlias = dict[str, Any]

MANY = 1000  # trials from which NSGA-II's cheap proposals pay
MOST_POINTS = 10_000  # a grid beyond is a mistake: no budget would exhaust it


class NoOptions(Spec):
    """A sampler without settings."""


class TpeOptions(Spec):
    """Chosen on a synthetic depth search; see benchmarks."""

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


def grid_points(ask: Ask) -> list[Point]:
    """Every point of a space, conditional branches included."""
    odometer = _Odometer()
    points = []
    while odometer.turn():
        # A combination the space refuses is a point too: a failed trial, with its reason.
        with contextlib.suppress(ValueError, optuna.TrialPruned):
            ask(odometer)
        points.append(odometer.params)
        if len(points) > MOST_POINTS:
            raise UserError(
                f"sampler grid: more than {MOST_POINTS:,} points",
                do='narrow the space under [space], or use sampler.name = "tpe"',
            )
    return points


def exhausted(study: optuna.Study) -> bool:
    """Whether the study's sampler has nothing more to propose."""
    return isinstance(study.sampler, GridSampler) and not study.sampler.left(study)


class GridSampler(BaseSampler):
    """Tries every point once, in an order shuffled by the study's seed."""

    def __init__(self, points: Sequence[Point], seed: int) -> None:
        self.points = list(points)
        random.Random(seed).shuffle(self.points)
        self._chosen: dict[int, Point] = {}

    def left(self, study: optuna.Study) -> list[Point]:
        """The points no trial has taken yet."""
        taken = {_key(trial.params) for trial in study.get_trials(deepcopy=False)}
        return [point for point in self.points if _key(point) not in taken]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        left = self.left(study)
        self._chosen[trial.number] = left[0] if left else self.points[0]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        # A point given by hand may leave some parameters open, even those of another branch.
        chosen = self._chosen.get(trial.number, {})
        if param_name in chosen:
            return chosen[param_name]
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[0]
        return param_distribution.low  # type: ignore[attr-defined]


class _Odometer:
    """Stands in for a trial and walks through all points: the last parameter turns fastest."""

    def __init__(self) -> None:
        self.params: Point = {}
        self._choices: list[Sequence[Any]] = []  # of the parameters asked for, in order
        self._digits: list[int] | None = None  # which of them is taken; None before the first

    def turn(self) -> bool:
        """On to the next point, if there is one."""
        digits = self._digits
        if digits is None:
            digits = []
        else:
            while digits and digits[-1] + 1 == len(self._choices[len(digits) - 1]):
                digits.pop()
            if not digits:
                return False
            digits[-1] += 1
        self.params, self._choices, self._digits = {}, [], digits
        return True

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        return self._suggest(name, range(low, high + 1, step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, choices)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        if step is None:
            raise UserError(
                f"sampler grid: {name} is continuous, between {low:g} and {high:g}",
                allowed="integers, choices, and numbers with a step",
                do='use sampler.name = "tpe", or a space that gives it a step',
            )
        count = math.floor((high - low) / step + 1e-9) + 1
        # Rounded, as 0.1 * 3 is 0.30000000000000004.
        return self._suggest(name, [round(low + step * index, 12) for index in range(count)])

    def set_user_attr(self, key: str, value: Any) -> None:
        """Nothing: no trial is kept."""

    def _suggest(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self.params:
            return self.params[name]
        assert self._digits is not None, "turn() comes first"
        if len(self._choices) == len(self._digits):
            self._digits.append(0)
        self.params[name] = choices[self._digits[len(self._choices)]]
        self._choices.append(choices)
        return self.params[name]


def _key(params: Point) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


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
