"""The default: models of what points score choose among small changes to good ones.

Every proposal is worked out anew from the trials there are: a Gaussian process per metric learns
what stages do, and of a few hundred points near the front, none of them known, that one is proposed
which is expected to add most to the front within the constraints. Trials that still run count as
if they scored what is expected of them. Nothing is kept that an interruption would lose.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from threadpoolctl import ThreadpoolController

from search.samplers.bayesian.candidates import Pool
from search.samplers.bayesian.design import FIRST, design, lacking
from search.samplers.bayesian.judge import Evidence, Judge, Seen
from search.samplers.one_by_one import OneByOne
from search.samplers.points import Ask, Params, Point, Walker, key_of
from search.samplers.steps import draw

STEPS, MIXED, ANYWHERE = 72, 20, 8  # points to choose from
ROUNDS, BEST, AROUND = 2, 3, 24  # then around the best of those

UNTOUCHED = str(key_of([]))  # a model that is known before anything is tried


@cache
def _libraries() -> ThreadpoolController:
    """Those that compute with matrices. On one thread they round alike on every machine, and these
    matrices are so small that several threads mostly wait for each other."""
    return ThreadpoolController()


class BayesianSampler(OneByOne):
    """Expected hypervolume improvement over what a space's stages mean.

    Args:
        ask: runs the space on a trial.
    """

    def __init__(self, ask: Ask, seed: int = 0) -> None:
        self.walker, self.seed = Walker(ask), seed
        self._seen: dict[int, Seen] = {}  # by number: the same whenever it is worked out
        self._chosen: dict[int, Params] = {}

    # -- Optuna's side -----------------------------------------------------------------------

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.system_attrs.get("fixed_params"):
            return  # a point that was given
        others = study.get_trials(deepcopy=False)
        rng = Random(f"{self.seed}/{trial.number}")
        tried = [one for one in others if one.params]
        with _libraries().limit(limits=1):
            self._chosen = {trial.number: self._propose(study, tried, rng)}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        chosen = self._chosen.get(trial.number, {})
        if param_name in chosen:
            return chosen[param_name]
        return draw(Random(f"{self.seed}/{trial.number}/{param_name}"), param_distribution)

    # -- the proposal ------------------------------------------------------------------------

    def _propose(self, study: optuna.Study, trials: Sequence[FrozenTrial], rng: Random) -> Params:
        seen = list(self._see(trials, rng))
        known = {UNTOUCHED, *(one.identity for one in seen)}
        pool = Pool(self.walker, known, rng)
        if lacking([one.point for one in seen]) and (found := design(self.walker, pool.known)):
            return found
        if sum(one.done for one in seen) < FIRST:
            pool.add(pool.anywhere(), 1)
            return pool.points[0].params if pool.points else {}
        evidence = Evidence(seen, study.directions, study.user_attrs.get("baseline"), rng)
        parents = evidence.parents
        pool.add(pool.steps(parents), STEPS)
        pool.add(pool.mixtures(parents), MIXED)
        pool.add(pool.anywhere(), ANYWHERE)
        return self._best(pool, Judge(evidence, pool.described))

    def _best(self, pool: Pool, judge: Judge) -> Params:
        """The point that adds most, of a pool that grows around its best; none where all are
        known."""
        if not pool.points:
            return {}
        worth = judge.worth(pool.described)
        for _ in range(ROUNDS):
            top = [pool.points[int(at)] for at in np.argsort(-worth, kind="stable")[:BEST]]
            before = len(pool.points)
            pool.add(pool.steps(top), AROUND)
            if len(pool.points) > before:
                worth = np.concatenate([worth, judge.worth(pool.described[before:])])
        return pool.points[int(np.argmax(worth))].params

    def _see(self, trials: Sequence[FrozenTrial], rng: Random) -> Iterator[Seen]:
        """Trials' stages; without those that the space refuses."""
        for trial in trials:
            seen = self._seen.get(trial.number)
            if seen is None or seen.trial is not trial:
                if seen is not None and seen.trial.params == trial.params:
                    point: Point | None = seen.point
                else:
                    point = self.walker.walk(trial.params, lambda _, asked: draw(rng, asked))
                if point is None:
                    continue
                seen = self._seen[trial.number] = Seen.of(trial, point)
            yield seen
