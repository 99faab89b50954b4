"""Workers that are starting are let start, while there is more to do and for a while."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RaySystemError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.utils.object_cache import _ObjectCache

from search.engine import tune as reuse
from search.engine.tune import patient_reuse, run_tune
from tests.support.journals import sample_study
from trainables.worker import Place, Trial


class Named(SimpleNamespace):
    """Its identity is its own, as of Tune's trials."""

    __hash__ = object.__hash__


TRIAL = Named(trial_id="a", placement_group_factory="one CPU")


def controller(
    *,
    starting: bool = True,
    resetting: bool = False,
    finished: bool = False,
    placed: bool = True,
    live: int = 2,
) -> Any:
    workers = SimpleNamespace(is_actor_started=lambda actor: placed, num_live_actors=live)
    return SimpleNamespace(
        _trial_to_actor={TRIAL: "its own"} if starting else {},
        _actor_manager=workers,
        _resetting_trials=[TRIAL] if resetting else [],
        _search_alg=SimpleNamespace(is_finished=lambda: finished),
        _actor_cache=_ObjectCache(may_keep_one=True),
        update_max_pending_trials=lambda number: None,
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
    with patient_reuse(lambda: 2):
        assert TuneController._maybe_reuse_cached_actor(controller(**state), TRIAL) is given


def test_as_many_idle_workers_are_kept_as_may_be_at_work() -> None:
    tuning = controller()
    with patient_reuse(lambda: 2):
        for _ in range(3):
            TuneController._maybe_reuse_cached_actor(tuning, TRIAL)
    kept = [tuning._actor_cache.cache_object("one CPU", number) for number in range(3)]
    assert kept == [True, True, False]
    assert list(tuning._actor_cache.flush_cached_objects()) == []


def test_room_grows_with_the_cluster() -> None:
    tuning, slots, pending = controller(), [2], []
    tuning.update_max_pending_trials = pending.append
    with patient_reuse(lambda: slots[0]):
        TuneController._maybe_reuse_cached_actor(tuning, TRIAL)
        slots[0] = 3
        TuneController._maybe_reuse_cached_actor(tuning, TRIAL)
        slots[0] = 1
        TuneController._maybe_reuse_cached_actor(tuning, TRIAL)
    kept = [tuning._actor_cache.cache_object("one CPU", number) for number in range(4)]
    assert kept == [True, True, True, False]
    assert pending == [3, 4]


@pytest.mark.parametrize(
    ("result", "kept"), [({"leave": True}, False), ({"leave": False}, True), (None, True)]
)
def test_a_worker_that_wants_to_leave_is_not_kept(
    result: Any, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TuneController, "_maybe_cache_trial_actor", lambda self, trial: True)
    trial = SimpleNamespace(trial_id="a", last_result=result)
    with patient_reuse(lambda: 2):
        assert TuneController._maybe_cache_trial_actor(controller(), trial) is kept


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with patient_reuse(lambda: 2):
        assert not TuneController._maybe_reuse_cached_actor(controller(), TRIAL)
        monkeypatch.setattr(reuse, "PATIENCE", 0.0)
        assert TuneController._maybe_reuse_cached_actor(controller(), TRIAL)


@pytest.mark.parametrize("lost", [{"placed": False}, {"live": 3}])
def test_where_a_node_has_gone_the_workers_left_take_its_trials(
    lost: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with patient_reuse(lambda: 2):
        assert not TuneController._maybe_reuse_cached_actor(controller(**lost), TRIAL)
        monkeypatch.setattr(reuse, "UNPLACED", 0.0)
        assert TuneController._maybe_reuse_cached_actor(controller(**lost), TRIAL)
        assert not TuneController._maybe_reuse_cached_actor(controller(), TRIAL)


def test_tune_is_left_as_it_was() -> None:
    before = vars(TuneController).copy()
    with patient_reuse(lambda: 2):
        assert vars(TuneController) != before
    assert vars(TuneController) == before


def test_a_cluster_that_goes_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit() -> None:
        raise RaySystemError("many lines of Ray's\nthe head does not answer")

    told: list[Exception] = []
    monkeypatch.setattr(reuse, "_tuner", lambda *_: SimpleNamespace(fit=fit))
    places = SimpleNamespace(slots=lambda: 1)
    plan: Any = SimpleNamespace(minutes=None, places=places, failed=told.append)
    run_tune(sample_study(), Trial, {"place": Place(tmp_path)}, plan)
    assert "the head does not answer" in str(told[0]) and "many lines" not in str(told[0])
