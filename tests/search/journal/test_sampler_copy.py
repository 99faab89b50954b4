"""The sampler's copy: what a sampler is asked, what the space refuses, what it is told."""

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from search.journal.sampler_copy import SamplerCopy
from trainables.core.errors import UserError

DOWN = [StudyDirection.MINIMIZE]


def depth(trial: optuna.Trial) -> None:
    trial.suggest_int("depth", 1, 8)


def test_a_point_is_proposed_as_it_is_given_and_told_under_its_number() -> None:
    copy = SamplerCopy(RandomSampler(seed=0), DOWN)
    proposed, refused = copy.propose(depth, {"depth": 3})
    assert (proposed.params, refused) == ({"depth": 3}, None)
    copy.number(proposed, 7)
    row = create_trial(state=TrialState.COMPLETE, value=2.5)
    row.number = 7
    copy.tell(row)
    assert [(one.params, one.value) for one in copy.study.trials] == [({"depth": 3}, 2.5)]


def test_what_the_space_refuses_comes_with_the_reason() -> None:
    def refuses(trial: optuna.Trial) -> None:
        depth(trial)
        raise ValueError("too deep")

    proposed, refused = SamplerCopy(RandomSampler(seed=0), DOWN).propose(refuses)
    assert refused == "the space refused: ValueError: too deep"
    assert set(proposed.params) == {"depth"}


def test_a_sampler_that_raises_is_named() -> None:
    class Broken(RandomSampler):
        def sample_independent(self, *_: object) -> int:
            raise KeyError("mine")

    with pytest.raises(UserError, match="sampler Broken"):
        SamplerCopy(Broken(), DOWN).propose(depth)
