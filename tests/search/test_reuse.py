"""Workers that are starting are let start, while there is more to do and for a while."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.execution.tune_controller import TuneController

from search import reuse
from search.reuse import patient_reuse

TRIAL = SimpleNamespace(trial_id="a")


def controller(*, starting: bool = True, resetting: bool = False, finished: bool = False) -> Any:
    return SimpleNamespace(
        _trial_to_actor=[TRIAL] if starting else [],
        _resetting_trials=[TRIAL] if resetting else [],
        _search_alg=SimpleNamespace(is_finished=lambda: finished),
    )


@pytest.fixture(autouse=True)
def _given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune itself gives any free worker away."""
    monkeypatch.setattr(TuneController, "_maybe_reuse_cached_actor", lambda self, trial: True)
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "auto")


@pytest.mark.parametrize(
    ("state", "given"),
    [
        ({}, False),
        ({"starting": False}, True),
        ({"resetting": True}, True),
        ({"finished": True}, True),
    ],
)
def test_a_trial_waits_for_the_worker_that_is_started_for_it(
    state: dict[str, bool], given: bool
) -> None:
    with patient_reuse(2):
        assert TuneController._maybe_reuse_cached_actor(controller(**state), TRIAL) is given


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with patient_reuse(2):
        assert not TuneController._maybe_reuse_cached_actor(controller(), TRIAL)
        monkeypatch.setattr(reuse, "PATIENCE", 0.0)
        assert TuneController._maybe_reuse_cached_actor(controller(), TRIAL)


def test_tune_is_left_as_it_was() -> None:
    before = TuneController._maybe_reuse_cached_actor
    with patient_reuse(2):
        assert TuneController._maybe_reuse_cached_actor is not before
    assert TuneController._maybe_reuse_cached_actor is before
