"""Lets Ray Tune start all workers: of itself it would often keep to the first one.

With reused actors Tune gives every worker that gets free to a trial that waits, and cancels the
worker that was being started for that trial. Where starting one (imports, the model) takes longer
than a trial, no second worker would ever come up. And it keeps only one worker that nobody waits
for, so that those which are ready before the baseline is measured would be started twice.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

PATIENCE = 300.0  # seconds for a worker to start; its node may be gone


@contextlib.contextmanager
def patient_reuse(workers: int) -> Iterator[None]:
    """While open, a trial whose own worker is starting is not given another one, and as many idle
    workers are kept as may be at work."""
    from ray.tune.execution.tune_controller import TuneController

    reuse, since = TuneController._maybe_reuse_cached_actor, dict[str, float]()

    def patient(controller: Any, trial: Any) -> bool:
        if not since:  # the first trial of all
            controller._actor_cache.increase_max(trial.placement_group_factory, workers)
        begun = since.setdefault(trial.trial_id, time.monotonic())
        starting = trial in controller._trial_to_actor and trial not in controller._resetting_trials
        more = not controller._search_alg.is_finished()
        if starting and more and time.monotonic() < begun + PATIENCE:
            return False
        return bool(reuse(controller, trial))

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers + 1)  # all start at once
    TuneController._maybe_reuse_cached_actor = patient
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = reuse
