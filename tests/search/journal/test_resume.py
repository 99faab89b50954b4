"""A search that is killed and resumed, with every sampler: the trials of one that was not."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from optuna.storages import RDBStorage
from optuna.trial import FixedTrial, TrialState

from search.journal.journal import Journal
from search.samplers.build import sampler_source
from search.samplers.points import key_of
from search.study.constraints import parse_constraint
from search.study.options import SAMPLERS
from search.study.schema import SamplerSpec
from spaces.omission_wanda import OmissionWandaSpace
from tests.support.journals import memory, record
from trainables.omission.method import Omission
from trainables.stage import Facts
from trainables.wanda import Wanda

BLOCKS = 8
SPACE = OmissionWandaSpace(max_skip=3, high=30)
FACTS = Facts(BLOCKS, survey={"influence": [((7 * n) % BLOCKS) / 10 for n in range(BLOCKS)]})
STARTS: list[dict[str, Any]] = [
    {"omission.skip.count": 0, "wanda.percent": 10},
    {"omission.skip.count": 0, "wanda.percent": 10, "omission.skip.03": 1},  # the same model
    {"omission.skip.count": 1, "wanda.percent": 0},  # leaves the rest to the sampler
]
LIMITS = {"limit": parse_constraint("perplexity", "<= 130% of baseline")}
OPTIONS: dict[str, dict[str, Any]] = {
    "level-switch": {"drop": 2},
    "phases": {
        "phases": [
            {"points": [{"omission.skip": [n], "wanda.percent": 10} for n in (1, 3, 5)]},
            {"best_of": 1, "by": "parameters", "vary": {"wanda.percent": [0, 20, 30]}},
            {"vary": {"wanda.percent": {"low": 10, "high": 30}}, "trials": 8},
            {"best_of": [1, 2, 3], "around": 0.5, "trials": 12},
            {"best_of": 4, "around": 1.0},
        ]
    },
}
OBJECTIVES = {"perplexity": "min", "parameters": "min"}


def ask(trial: Any) -> Any:
    return SPACE.stages(trial, FACTS)


def measure(params: dict[str, Any]) -> dict[str, float]:
    """A made-up model's perplexity, which rises with what is taken, and its parameters."""
    taken, zeros = 0.0, 0.0
    removed = 0
    for stage in ask(FixedTrial(params)):
        if isinstance(stage, Omission):
            removed = len(stage.skip)
            taken = sum(0.05 + FACTS.survey["influence"][n] / 3 for n in stage.skip)
        elif isinstance(stage, Wanda):
            zeros = float(stage.sparsity or 0)
    size = (BLOCKS - removed) * (1 - zeros)
    return {"perplexity": 20 * math.exp(taken + zeros**2), "parameters": size}


class Launch:
    """A driver with one worker, which can be killed."""

    def __init__(self, storage: RDBStorage, name: str, limit: int) -> None:
        self.journal = Journal(storage, "depth", OBJECTIVES, LIMITS)
        if not self.journal.trials():
            self.settle(self.journal.hand_out(None), {"perplexity": 20.0, "parameters": 8.0})
        for row in self.journal.trials():
            if row.state == TrialState.RUNNING:
                self.journal.owed.append(row)
        spec = SamplerSpec(name=name, options=OPTIONS.get(name, {}))
        source = sampler_source(spec, seed=3, trials=limit, ask=ask, directions=OBJECTIVES)
        self.journal.begin(source, STARTS)
        self.limit = limit

    def settle(self, given: Any, metrics: dict[str, float]) -> None:
        self.journal.settle(given.number, record(given.uid, given.number, metrics))

    def run(self, killed: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
        """Until the budget is spent, or until it is killed with a trial in hand."""
        journal = self.journal
        while journal.owed or (len(journal.trials()) <= self.limit and not journal.exhausted):
            if (given := journal.hand_out(ask)) is None:
                continue
            if killed():
                break
            if given.number % 7 == 5:
                journal.fail(given.number, "out of memory")
            elif given.number % 11 == 6:
                journal.stop(given.number, {})
            else:
                self.settle(given, measure(given.params))
        return [dict(row.params) for row in journal.trials()[1:]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_killed_search_goes_on_as_if_it_had_not_been(name: str) -> None:
    whole = Launch(memory(), name, limit=30).run()
    storage, handed = memory(), []

    def killed() -> bool:
        handed.append(1)
        return len(handed) % 7 == 0

    for _ in range(7):
        Launch(storage, name, limit=30).run(killed)
    assert Launch(storage, name, limit=30).run() == whole
    keys = [key_of(ask(FixedTrial(params))) for params in whole]
    assert len(keys) == 30 and len(set(keys)) == 30  # no model twice
    assert whole[0]["wanda.percent"] == 10 and whole[1]["omission.skip.count"] == 1


@pytest.mark.parametrize("name", ["random", "grid", "auto"])
def test_a_space_comes_to_its_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = OmissionWandaSpace(max_skip=1, high=20, keep_first=2, keep_last=2)
    monkeypatch.setattr("tests.search.journal.test_resume.SPACE", small)
    launch = Launch(memory(), name, limit=10_000)
    assert len(launch.run()) == (1 + 4) * 3 - 1  # no block or one of 4, 3 sparsities; not neither
    assert launch.journal.exhausted
