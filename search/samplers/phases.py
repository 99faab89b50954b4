"""A search in phases, each of which may start from the best of earlier ones.

    [sampler]
    name = "phases"

    [[sampler.phases]]
    name = "how much"
    points = [{ "neurons.prune_ratio" = 0.05 }, { "neurons.prune_ratio" = 0.1 }]

    [[sampler.phases]]
    name = "where"
    best_of = "how much"     # what is left open is as in that phase's best trial
    by = "rouge_l"           # of those that meet the constraints, if any does
    vary = { "neurons.layer_scale.early" = [0.2, 0.5], "neurons.layer_scale.late" = [1.2, 2.2] }

    [[sampler.phases]]
    best_of = ["how much", "where"]
    around = 0.25            # TPE over all parameters, a quarter of their ranges around that best
    trials = 10

A phase tries its `points`; or `vary`, every combination of what is listed, or as many draws as
`trials` says where there are ranges (`{ low = 0.2, high = 0.8 }`). With several workers a phase
begins while the last trials of the one before still run, and goes by those that have ended.
"""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import optuna
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.samplers.grid import METRICS, Listed
from search.samplers.points import PHASE, Ask
from search.study.options import Phase, PhasesOptions, Range
from search.study.stand_in import StandIn, default, fits, said
from search.study.starting_points import read_point
from trainables.core.errors import UserError, did_you_mean

Params: TypeAlias = dict[str, Any]
Ranges: TypeAlias = dict[str, BaseDistribution]
STARTUP = 4  # trials near the best before TPE has something to go by


class PhasesSampler(Listed):
    """Proposes the points of one phase after the other.

    What it proposes depends on the seed and on the trials there are, and on nothing it keeps: it
    can be resumed at any point.

    Args:
        ask: runs the space on a trial.
        directions: metric -> min or max; the first is what a phase goes by that names none.

    Raises:
        UserError: a parameter that the space does not ask for, or a value out of its range.
    """

    reads_metrics = True

    def __init__(
        self, options: PhasesOptions, *, seed: int, ask: Ask, directions: Mapping[str, str]
    ) -> None:
        self.options, self.phases, self.seed = options, options.phases, seed
        self.directions = directions
        asked = _Asked()
        ask(asked)
        self.points = [_points(phase, n, ask) for n, phase in enumerate(self.phases)]
        self.ranges = [_ranges(phase, n, asked.known) for n, phase in enumerate(self.phases)]
        self._chosen: dict[int, tuple[Params, Ranges]] = {}

    def left(self, study: optuna.Study) -> Sequence[object]:
        """The phase that goes on, or comes next; none at the end."""
        found = self._next(study.get_trials(deepcopy=False))
        return [] if found is None else [self.phases[found[0]]]

    def lists(self, study: optuna.Study) -> bool:
        """Whether the phase at hand says itself what it tries."""
        found = self._next(study.get_trials(deepcopy=False))
        return found is None or bool(self.points[found[0]])

    def _next(self, trials: Sequence[FrozenTrial]) -> tuple[int, int] | None:
        """Which phase comes next, and what place in it; None where all are done."""
        at, place = 0, -1
        for trial in trials:
            if PHASE in trial.system_attrs:
                at, place = trial.system_attrs[PHASE]
            elif (at, place) != (0, -1):  # a point from elsewhere takes the place of one of its
                place += 1
        place += 1
        while at < len(self.phases) and place >= self._size(at):
            at, place = at + 1, 0
        return None if at == len(self.phases) else (at, place)

    def _size(self, at: int) -> float:
        """How many trials a phase has."""
        return self.phases[at].trials or len(self.points[at]) or math.inf

    # -- a proposal --------------------------------------------------------------------------

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._chosen.pop(trial.number, None)  # of a proposal that came in vain
        if trial.params or {PHASE, "fixed_params"} & set(trial.system_attrs):  # known, or by hand
            return
        earlier = [one for one in study.get_trials(deepcopy=False) if one.number < trial.number]
        at, place = self._next(earlier) or (len(self.phases) - 1, 0)
        study._storage.set_trial_system_attr(trial._trial_id, PHASE, [at, place])
        self._chosen[trial.number] = self._proposal(earlier, at, place)

    def _proposal(
        self, earlier: Sequence[FrozenTrial], at: int, place: int
    ) -> tuple[Params, Ranges]:
        """The parameters that are given, and the ranges of those that TPE is to choose."""
        phase, best = self.phases[at], self._best(earlier, at)
        held: Params = {} if best is None else dict(best.params)
        if phase.around is not None:
            free = {} if best is None else _around(best, phase.around)
            return {name: value for name, value in held.items() if name not in free}, free
        if points := self.points[at]:
            return held | points[place % len(points)], {}
        rng = Random(f"{self.seed}/{at}/{place}")
        return held | {name: _drawn(one, rng) for name, one in self.ranges[at].items()}, {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Ranges:
        return self._chosen.get(trial.number, ({}, {}))[1]

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Ranges
    ) -> dict[str, Any]:
        """By TPE over those finished trials that lie in the ranges."""
        if not search_space:
            return {}
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        near = _study(study.directions, Random(f"{self.seed}/{trial.number}").getrandbits(32))
        near.add_trials([_within(one, search_space) for one in done if _lies(one, search_space)])
        return near.ask(fixed_distributions=search_space).params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        given = self._chosen.get(trial.number, ({}, {}))[0]
        if param_name in given and fits(given[param_name], param_distribution):
            return given[param_name]
        seed = Random(f"{self.seed}/{trial.number}/{param_name}").getrandbits(32)
        drawn = RandomSampler(seed=seed)
        return drawn.sample_independent(study, trial, param_name, param_distribution)

    # -- the best of earlier phases ----------------------------------------------------------

    def _best(self, trials: Sequence[FrozenTrial], at: int) -> FrozenTrial | None:
        """The trial a phase starts from; None where it names none, or none has come to a result."""
        named = self.options.starts_from(at)
        by = self.phases[at].by or next(iter(self.directions))
        done = [
            one
            for one in trials
            if one.state == TrialState.COMPLETE and one.system_attrs.get(PHASE, [-1])[0] in named
        ]
        return min(done, key=lambda one: (_miss(one), self._loss(one, by)), default=None)

    def _loss(self, trial: FrozenTrial, by: str) -> float:
        """The metric, smaller is better."""
        value = float(trial.user_attrs.get(METRICS, {}).get(by, math.nan))
        if math.isnan(value):
            return math.inf
        return -value if self.directions[by] == "max" else value


def _miss(trial: FrozenTrial) -> float:
    """By how much the constraints are missed, together."""
    return sum(max(0.0, value) for value in trial.constraints.values())


# -- what a phase tries --------------------------------------------------------------------------


class _Asked(StandIn):
    """Notes what a space asks for."""

    def __init__(self) -> None:
        self.known: Ranges = {}

    def answer(self, name: str, asked: BaseDistribution) -> Any:
        self.known[name] = asked
        return default(asked)


def _points(phase: Phase, at: int, ask: Ask) -> list[Params]:
    """The points a phase lists, and all combinations of values that it lists; none with ranges."""
    what = f"sampler.phases[{at}]"
    if phase.points:
        named = enumerate(phase.points)
        return [read_point(point, ask, f"{what}.points[{n}]") for n, point in named]
    listed = {name: one for name, one in phase.vary.items() if not isinstance(one, Range)}
    if not listed or len(listed) < len(phase.vary):
        return []
    combined = itertools.product(*listed.values())
    points = [dict(zip(listed, values, strict=True)) for values in combined]
    return [read_point(point, ask, f"{what}.vary") for point in points]


def _ranges(phase: Phase, at: int, known: Ranges) -> dict[str, Sequence[Any] | BaseDistribution]:
    """What a phase draws from."""
    if all(not isinstance(one, Range) for one in phase.vary.values()):
        return {}
    what = f"sampler.phases[{at}].vary"
    return {name: _checked(name, one, known, what) for name, one in phase.vary.items()}


def _checked(
    name: str, given: list[Any] | Range, known: Ranges, what: str
) -> Sequence[Any] | BaseDistribution:
    """Values or a range that a parameter may have."""
    asked = known.get(name)
    if asked is None:
        hint = did_you_mean(name, known)
        raise UserError(f"{what}: the space has no {name}", allowed=", ".join(known), do=hint)
    if not isinstance(given, Range):
        if wrong := [one for one in given if not fits(one, asked)]:
            raise UserError(f"{what}.{name}", got=wrong, allowed=said(asked))
        return given
    inside = isinstance(asked, IntDistribution | FloatDistribution) and (
        asked.low <= given.low <= given.high <= asked.high
    )
    if not inside:
        got = f"from {given.low:g} to {given.high:g}"
        raise UserError(f"{what}.{name}", got=got, allowed=said(asked))
    assert isinstance(asked, IntDistribution | FloatDistribution)
    return _cut(asked, given.low, given.high)


def _drawn(one: Sequence[Any] | BaseDistribution, rng: Random) -> Any:
    if not isinstance(one, BaseDistribution):
        return rng.choice(one)
    if isinstance(one, IntDistribution):
        return rng.randrange(one.low, one.high + 1, one.step)
    assert isinstance(one, FloatDistribution)
    if one.step is None:
        return rng.uniform(one.low, one.high)
    steps = math.floor((one.high - one.low) / one.step + 1e-9)
    return round(one.low + one.step * rng.randint(0, steps), 12)


# -- around a trial ------------------------------------------------------------------------------


def _around(best: FrozenTrial, share: float) -> Ranges:
    """The ranges of the parameters near a trial's; those that can only be what they are, left out.

    Args:
        share: of a parameter's whole range, to each side, at least a step.
    """
    found: Ranges = {}
    for name, asked in sorted(best.distributions.items()):
        near = asked
        if isinstance(asked, IntDistribution | FloatDistribution):
            near = _near(asked, best.params[name], share)
        if not near.single():
            found[name] = near
    return found


def _near(
    asked: IntDistribution | FloatDistribution, value: float, share: float
) -> IntDistribution | FloatDistribution:
    if asked.log:
        reach = share * math.log(asked.high / asked.low)
        return _cut(asked, value * math.exp(-reach), value * math.exp(reach))
    reach = max(share * (asked.high - asked.low), asked.step or 0.0)
    return _cut(asked, value - reach, value + reach)


def _cut(
    asked: IntDistribution | FloatDistribution, low: float, high: float
) -> IntDistribution | FloatDistribution:
    """The part of a range between two values, on its own steps."""
    low, high = max(low, asked.low), min(high, asked.high)
    if asked.step is None:
        return FloatDistribution(low, high, asked.log)
    first = asked.low + math.ceil((low - asked.low) / asked.step - 1e-9) * asked.step
    last = asked.low + math.floor((high - asked.low) / asked.step + 1e-9) * asked.step
    if isinstance(asked, IntDistribution):
        return IntDistribution(int(first), int(max(first, last)), asked.log, asked.step)
    return FloatDistribution(round(first, 12), round(max(first, last), 12), step=asked.step)


def _lies(trial: FrozenTrial, ranges: Ranges) -> bool:
    return all(name in trial.params and _holds(ranges[name], trial.params[name]) for name in ranges)


def _holds(asked: BaseDistribution, value: Any) -> bool:
    """Whether a value lies in a range; its own steps are those of the range."""
    if isinstance(asked, IntDistribution | FloatDistribution):
        return isinstance(value, int | float) and asked.low - 1e-9 <= value <= asked.high + 1e-9
    return fits(value, asked)


def _within(trial: FrozenTrial, ranges: Ranges) -> FrozenTrial:
    """A finished trial as one of the ranges alone."""
    return create_trial(
        state=trial.state,
        values=trial.values,
        params={name: trial.params[name] for name in ranges},
        distributions=ranges,
        system_attrs=trial.system_attrs,
    )


def _study(directions: list[optuna.study.StudyDirection], seed: int) -> optuna.Study:
    """A study in memory, searched by TPE."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            tpe = TPESampler(n_startup_trials=STARTUP, multivariate=True, seed=seed)
        return optuna.create_study(directions=directions, sampler=tpe)
    finally:
        optuna.logging.set_verbosity(before)
