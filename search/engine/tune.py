"""Ray Tune executes a plan, on warm workers; and the one patch of Tune that this needs.

Of itself Tune would often keep to the first worker. With reused actors it gives every worker that
gets free to a trial that waits, and cancels the worker that was being started for that trial. Where
starting one (imports, the model) takes longer than a trial, no second worker would ever come up.
And it keeps only one worker that nobody waits for, so that those which are ready before the
baseline is measured would be started twice.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from search.engine.dispatch import Plan
from search.journal.store import Store
from search.study.schema import Study
from spaces.space import Space

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


def run_tune(study: Study, store: Store, space: Space, plan: Plan) -> None:
    """Let Ray Tune execute what the searcher hands out, on warm workers."""
    from ray import tune

    from search.engine.schedulers import make_scheduler
    from search.engine.searcher import JournalSearcher
    from trainables.worker import Trial

    trainable = tune.with_parameters(
        Trial,
        spec=study.bench_spec(store.cache),
        space=space,
        study=study.name,
        results=store.results,
    )
    wanted: dict[str, float] = {"cpu": study.resources.cpus, "gpu": study.resources.gpus}
    if study.resources.memory_gb:
        wanted["memory"] = study.resources.memory_gb * 1e9
    scratched = tempfile.TemporaryDirectory(prefix="rayduce-")
    with scratched as scratch, patient_reuse(plan.workers):
        tune.Tuner(
            tune.with_resources(trainable, wanted),
            tune_config=tune.TuneConfig(
                search_alg=JournalSearcher(plan),
                scheduler=make_scheduler(study.scheduler, study.objectives),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=study.name,
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands out again
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
