"""An exhaustive grid over any space: all its points, each tried once."""

import contextlib
import math
import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from search.samplers.one_by_one import OneByOne
from search.samplers.points import Ask, Params, key_of
from search.study.stand_in import StandIn, default
from trainables.core.errors import UserError

METRICS = "metrics"  # in a copied row: what the trial measured, where a sampler reads it
MOST_POINTS = 10_000  # a grid beyond is a mistake: no budget would exhaust it


def grid_points(ask: Ask) -> list[Params]:
    """Every point of a space, conditional branches included; of those that mean the same stages,
    the first."""
    odometer, points, keys = _Odometer(), list[Params](), set[str]()
    while odometer.turn():
        key = None
        # A combination the space refuses is a point too: a failed trial, with its reason.
        with contextlib.suppress(ValueError, optuna.TrialPruned):
            key = key_of(ask(odometer))
        if key is not None and key in keys:
            continue
        keys.add(key or "")
        points.append(odometer.params)
        if len(points) > MOST_POINTS:
            raise UserError(
                f"sampler grid: more than {MOST_POINTS:,} points",
                do='narrow the space under [space], or use sampler.name = "tpe"',
            )
    return points


class Listed(OneByOne):
    """A sampler that knows what is left to try."""

    reads_metrics: ClassVar[bool] = False  # whether it goes by more than the objectives

    @abstractmethod
    def left(self, study: optuna.Study) -> Sequence[object]:
        """What no trial has taken yet."""

    def lists(self, study: optuna.Study) -> bool:
        """Whether what comes next is from a list, of which an end can be reached."""
        return True


def is_grid(study: optuna.Study) -> bool:
    """Whether what the study's sampler proposes now comes to an end by itself."""
    return isinstance(study.sampler, Listed) and study.sampler.lists(study)


def exhausted(study: optuna.Study) -> bool:
    """Whether the study's sampler has nothing more to propose."""
    return isinstance(study.sampler, Listed) and not study.sampler.left(study)


class GridSampler(Listed):
    """Tries every point once, in an order shuffled by the study's seed."""

    def __init__(self, points: Sequence[Params], seed: int) -> None:
        self.points = list(points)
        random.Random(seed).shuffle(self.points)
        self._chosen: dict[int, Params] = {}

    def left(self, study: optuna.Study) -> list[Params]:
        """The points no trial has taken yet."""
        taken = {_key(trial.params) for trial in study.get_trials(deepcopy=False)}
        return [point for point in self.points if _key(point) not in taken]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        left = self.left(study)
        self._chosen[trial.number] = left[0] if left else self.points[0]

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
        return default(param_distribution)


class _Odometer(StandIn):
    """Walks through all points: the last parameter turns fastest."""

    def __init__(self) -> None:
        self.params: Params = {}
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

    def answer(self, name: str, asked: BaseDistribution) -> Any:
        if name in self.params:
            return self.params[name]
        assert self._digits is not None, "turn() comes first"
        if len(self._choices) == len(self._digits):
            self._digits.append(0)
        choices = _values(name, asked)
        self.params[name] = choices[self._digits[len(self._choices)]]
        self._choices.append(choices)
        return self.params[name]


def _values(name: str, asked: BaseDistribution) -> Sequence[Any]:
    """All that a parameter may be."""
    if isinstance(asked, CategoricalDistribution):
        return asked.choices
    if isinstance(asked, IntDistribution):
        return range(asked.low, asked.high + 1, asked.step)
    assert isinstance(asked, FloatDistribution)
    if asked.step is None:
        raise UserError(
            f"sampler grid: {name} is continuous, between {asked.low:g} and {asked.high:g}",
            allowed="integers, choices, and numbers with a step",
            do='use sampler.name = "tpe", or a space that gives it a step',
        )
    count = math.floor((asked.high - asked.low) / asked.step + 1e-9) + 1
    # Rounded, as 0.1 * 3 is 0.30000000000000004.
    return [round(asked.low + asked.step * index, 12) for index in range(count)]


def _key(params: Params) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in params.items()))
