"""The sampler's copy: what a sampler is asked, what the space refuses, what it is told."""

from dataclasses import dataclass
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.journal.sampler_copy import ATTEMPTS, SamplerCopy
from search.samplers.grid import GridSampler, grid_points
from search.samplers.points import key_of
from trainables.core.errors import UserError

DOWN = [StudyDirection.MINIMIZE]


@dataclass
class Half:
    """Stands in for a stage, of which two depths mean the same."""

    depth: int

    def to_dict(self) -> dict[str, int]:
        return {"depth": self.depth // 2}


def depth(trial: Any) -> list[Half]:
    return [Half(trial.suggest_int("depth", 0, 7))]


def row(copy: SamplerCopy, **given: Any) -> FrozenTrial:
    proposed = copy.propose(depth, **given)
    assert proposed is not None
    made = create_trial(
        state=TrialState.RUNNING,
        params=dict(proposed.params),
        distributions=dict(proposed.distributions),
    )
    made.number = 1 + len(copy.study.trials)
    return made


def test_a_point_is_proposed_as_it_is_given_and_told_under_its_number() -> None:
    copy = SamplerCopy(RandomSampler(seed=0), DOWN)
    given = row(copy, point={"depth": 3})
    assert copy.study.trials == []  # until the journal has it
    copy.add(given)
    given.state, given.values = TrialState.COMPLETE, [2.5]
    copy.tell(given)
    assert [(one.params, one.value) for one in copy.study.trials] == [({"depth": 3}, 2.5)]


def test_what_means_known_stages_is_asked_again() -> None:
    copy = SamplerCopy(RandomSampler(seed=0), DOWN)
    known = {str(key_of([Half(n)])) for n in (0, 2)}
    assert {row(copy, known=known).params["depth"] // 2 for _ in range(10)} == {2, 3}
    assert copy.propose(depth, known, {"depth": 3}) is None
    known |= {str(key_of([Half(n)])) for n in (4, 6)}
    assert copy.propose(depth, known) is None
    assert copy.study.trials == []


def test_a_sampler_is_asked_a_few_times_and_a_grid_to_its_end() -> None:
    asked = []

    class Counting(RandomSampler):
        def sample_independent(self, *given: Any) -> Any:
            asked.append(1)
            return super().sample_independent(*given)

    everything = {str(key_of([Half(n)])) for n in range(8)}
    assert SamplerCopy(Counting(seed=0), DOWN).propose(depth, everything) is None
    assert len(asked) == ATTEMPTS
    grid: BaseSampler = GridSampler([{"depth": n} for n in range(8)], seed=0)
    last = {str(key_of([Half(n)])) for n in range(6)}
    assert row(SamplerCopy(grid, DOWN), known=last).params["depth"] in (6, 7)
    assert SamplerCopy(grid, DOWN).propose(depth, everything) is None


def test_a_grid_lists_what_means_the_same_once() -> None:
    assert grid_points(depth) == [{"depth": n} for n in (0, 2, 4, 6)]


def test_what_the_space_refuses_comes_with_the_reason() -> None:
    def refuses(trial: optuna.Trial) -> None:
        depth(trial)
        raise ValueError("too deep")

    proposed = SamplerCopy(RandomSampler(seed=0), DOWN).propose(refuses)
    assert proposed is not None and set(proposed.params) == {"depth"}
    assert proposed.refused == "the space refused: ValueError: too deep"


def test_a_sampler_that_raises_is_named() -> None:
    class Broken(RandomSampler):
        def sample_independent(self, *_: object) -> int:
            raise KeyError("mine")

    with pytest.raises(UserError, match="sampler Broken"):
        SamplerCopy(Broken(), DOWN).propose(depth)
