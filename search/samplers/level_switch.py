"""Level-switch evolution as an Optuna sampler (EvoPress): some omitted units come back, as many
others go.

Each offspring of the best trial so far switches one to three pairs of units, each pair within a
set that is drawn, so that every set keeps its size. In a study file:

    [sampler]
    name = "level-switch"
    drop = 6        # how many units of each set to omit
    offspring = 16
"""

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from spaces import sets
from trainables.omission.searches import switch, switches

Groups: TypeAlias = dict[str, list[str]]  # set -> parameters of its units, in order
TRIES = 50  # to find an offspring that was not tried before


class LevelSwitchSampler(BaseSampler):
    """(1 + offspring) evolution over sets of a fixed size.

    What it proposes depends on the seed, the trial's number and the finished trials, and on
    nothing it keeps: it can be resumed at any point. Parameters that are no 0/1 units are drawn
    at random.

    Args:
        drop: how many units of each group to omit; by default as many as the parent does.
        offspring: trials between two choices of the parent.
    """

    def __init__(self, seed: int = 0, *, drop: int | None = None, offspring: int = 16) -> None:
        if offspring < 1 or (drop is not None and drop < 1):
            raise ValueError(f"drop = {drop}, offspring = {offspring}: allowed is 1 or more")
        self.seed, self.drop, self.offspring = seed, drop, offspring

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The units and their counts, by the names of any earlier trial."""
        for earlier in reversed(study.get_trials(deepcopy=False)):
            known = earlier.distributions
            units = [name for name in known if _is_unit(name, known[name])]
            if units:
                counts = [sets.count_of(group) for group in sets.groups(units)]
                return {name: known[name] for name in sorted([*units, *counts]) if name in known}
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        rng = Random(f"{self.seed}/{trial.number}")
        groups = {name: list(units.values()) for name, units in sets.groups(search_space).items()}
        tried = {_chosen(other.params) for other in study.get_trials(deepcopy=False)}
        parent = self._parent(study, trial, groups)
        for _ in range(TRIES):
            child = self._child(groups, parent, rng)
            if frozenset(name for names in child.values() for name in names) not in tried:
                break
        values = {name: int(name in child[g]) for g, names in groups.items() for name in names}
        counts = {sets.count_of(group): len(names) for group, names in child.items()}
        return values | {name: n for name, n in counts.items() if name in search_space}

    def _child(self, groups: Groups, parent: FrozenTrial | None, rng: Random) -> Groups:
        """The units of each set to omit."""
        if parent is None:
            return {group: self._drawn(names, rng) for group, names in groups.items()}
        pairs = Counter(rng.choice(list(groups)) for _ in range(switches(rng)))
        child = {}
        for group, names in groups.items():
            gone = [index for index, name in enumerate(names) if parent.params.get(name)]
            left = switch(gone, [range(len(names))], rng, pairs[group])
            child[group] = [names[index] for index in left]
        return child

    def _drawn(self, names: list[str], rng: Random) -> list[str]:
        return rng.sample(names, min(self.drop or len(names) // 5, len(names)))

    def _parent(
        self, study: optuna.Study, trial: FrozenTrial, groups: Groups
    ) -> FrozenTrial | None:
        """The best of the generations before, of those that keep to the constraints and to size."""
        before = trial.number - trial.number % self.offspring
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        right = [one for one in finished if self._right_size(one, groups) and _feasible(one)]
        old = [one for one in right if one.number < before]  # none in the first generation
        return min(old or right[:1], key=lambda one: _order(study, one), default=None)

    def _right_size(self, trial: FrozenTrial, groups: Groups) -> bool:
        for group, names in groups.items():
            size = sum(trial.params.get(name, 0) for name in names)
            if size != trial.params.get(sets.count_of(group), size) or size != (self.drop or size):
                return False
        return True

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The first trial's units, whose number is not known yet, and all other parameters."""
        if _is_unit(param_name, param_distribution):
            return int(Random(f"{self.seed}/{trial.number}/{param_name}").random() < 0.2)
        seed = Random(f"{self.seed}/{trial.number}/{param_name}").getrandbits(32)
        drawn = RandomSampler(seed=seed)
        return drawn.sample_independent(study, trial, param_name, param_distribution)


def _is_unit(name: str, distribution: BaseDistribution) -> bool:
    if not isinstance(distribution, IntDistribution) or not sets.groups([name]):
        return False
    return (distribution.low, distribution.high) == (0, 1)


def _chosen(params: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, value in params.items() if value == 1 and sets.groups([name]))


def _feasible(trial: FrozenTrial) -> bool:
    constraints = getattr(trial, "constraints", None) or {}
    values = constraints.values() if isinstance(constraints, Mapping) else constraints
    return all(value <= 0 for value in values)


def _order(study: optuna.Study, trial: FrozenTrial) -> tuple[float, ...]:
    """Smaller is better; with several objectives the first counts most."""
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
    return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
