"""Ray Tune executes a plan, on warm workers; and the one patch of Tune that this needs.

Of itself Tune would often keep to the first worker. With reused actors it gives every worker that
gets free to a trial that waits, and cancels the worker that was being started for that trial. Where
starting one (imports, the model) takes longer than a trial, no second worker would ever come up.
And it keeps only one worker that nobody waits for, so that those which are ready before the
baseline is measured would be started twice. Nor does it know of workers that want no further trial.
"""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.engine.dispatch import Work
from search.journal.store import Store, write_text
from search.study.schema import Study

if TYPE_CHECKING:
    from ray.tune import Tuner

    from search.engine.searcher import WorkSearcher
    from trainables.worker import Place

PATIENCE = 300.0  # seconds for a worker to start, once it has a place
UNPLACED = 10.0  # seconds for it to get one; its node may be gone


@contextlib.contextmanager
def patient_reuse(slots: Callable[[], int]) -> Iterator[None]:
    """While open, a trial whose own worker is starting is not given another one, as many idle
    workers are kept as may be at work, and none that wants to leave."""
    from ray.tune.execution.tune_controller import TuneController

    reuse, cache = TuneController._maybe_reuse_cached_actor, TuneController._maybe_cache_trial_actor
    since, room = dict[str, float](), Room()

    def patient(controller: Any, trial: Any) -> bool:
        room.grow(controller, trial.placement_group_factory, slots())
        begun = since.setdefault(trial.trial_id, time.monotonic())
        starting = trial in controller._trial_to_actor and trial not in controller._resetting_trials
        more = not controller._search_alg.is_finished()
        if starting and more and time.monotonic() < begun + _patience(controller, trial, slots()):
            return False
        return bool(reuse(controller, trial))

    def staying(controller: Any, trial: Any) -> bool:
        since.pop(trial.trial_id, None)
        return not (trial.last_result or {}).get("leave") and bool(cache(controller, trial))

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots() + 1)  # all start at once
    TuneController._maybe_reuse_cached_actor = patient
    TuneController._maybe_cache_trial_actor = staying
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = reuse
        TuneController._maybe_cache_trial_actor = cache


def _patience(controller: Any, trial: Any, slots: int) -> float:
    """How long a trial's own worker may take to start: not long, where a node has gone and left no
    room for it."""
    workers = controller._actor_manager
    placed = workers.is_actor_started(controller._trial_to_actor[trial])  # Tune's word for it
    return PATIENCE if placed and workers.num_live_actors <= slots else UNPLACED


@dataclass
class Room:
    """For how many workers Tune was told to have room."""

    workers: int = 0

    def grow(self, controller: Any, request: Any, slots: int) -> None:
        """Nodes have joined, or the first trial comes."""
        if slots > self.workers:
            controller._actor_cache.increase_max(request, slots - self.workers)
            controller.update_max_pending_trials(slots + 1)
            self.workers = slots


def place_of(store: Store, results: Path) -> "Place":
    """Where results go, with a mark by which a worker knows that folder."""
    from trainables.worker import Place

    mark = secrets.token_hex(8)
    write_text(store.root / "marker", mark)
    return Place(results, (store.root / "marker", mark))


def run_tune(study: Study, worker: type, given: Mapping[str, Any], plan: Work) -> None:
    """Let Ray Tune do some work on warm workers.

    Args:
        worker: a `trainables.worker.Trial`.
        given: what its `setup` takes.
    """
    from ray import tune
    from ray.exceptions import RayError
    from ray.tune.error import TuneError

    from search.engine.nodes import Elsewhere, bundle
    from search.engine.searcher import WorkSearcher

    trainable = tune.with_parameters(
        worker,
        **given,
        study=study.name,
        minutes=plan.minutes,
        share=study.resources.gpus,
    )
    trial = tune.with_resources(trainable, Elsewhere([bundle(study.resources)]))
    scratched = tempfile.TemporaryDirectory(prefix="rayduce-")
    with scratched as scratch, patient_reuse(plan.places.slots):
        tuner = _tuner(study, trial, WorkSearcher(plan), scratch)
        try:
            tuner.fit()
        except (RayError, TuneError) as error:  # the cluster is gone
            plan.failed(type(error)(str(error).strip().splitlines()[-1]))


def _tuner(study: Study, trial: Any, searcher: "WorkSearcher", scratch: str) -> "Tuner":
    """Tune as a plain executor: the searcher proposes, the journal keeps, the ledger is ours."""
    from ray import tune

    from search.engine.schedulers import make_scheduler

    return tune.Tuner(
        trial,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(study.scheduler, study.objectives),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=study.name,
            storage_path=scratch,
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands out again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_listener(searcher)],
            verbose=0,
        ),
    )


def _listener(searcher: "WorkSearcher") -> Any:
    """Tells the searcher what Tune does not tell searchers."""
    from ray import cloudpickle, tune

    class Listener(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            searcher.started(trial.trial_id)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            searcher.died(trial.trial_id, self._why(trial))

        def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
            searcher.tick()

        @staticmethod
        def _why(trial: Any) -> BaseException | None:
            """What Tune wrote down of the error."""
            try:
                with open(trial.pickled_error_file, "rb") as file:
                    found: BaseException = cloudpickle.load(file)
            except (OSError, TypeError, ValueError):
                return None
            return found

    return Listener()
