"""Who stops poor trials early: names of a study file -> Ray Tune's schedulers."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search.study.options import SCHEDULERS, AshaOptions, MedianOptions, watched
from search.study.schema import Direction, SchedulerSpec

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


def make_scheduler(
    spec: SchedulerSpec, objectives: Mapping[str, Direction]
) -> "TrialScheduler | None":
    """The scheduler for Tune; None where nothing is stopped."""
    found = watched(spec, objectives)
    if found is None:
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler

    metric, mode = found
    options = SCHEDULERS[spec.name].model_validate(spec.options)
    if isinstance(options, AshaOptions):
        return AsyncHyperBandScheduler(
            metric=metric,
            mode=mode,
            grace_period=options.grace_period,
            reduction_factor=options.reduction_factor,
            max_t=max(options.max_t, options.grace_period),
            stop_last_trials=False,  # a trial beyond max_t runs on to its own end
        )
    assert isinstance(options, MedianOptions)
    return _median_rule()(
        time_attr="training_iteration",
        metric=metric,
        mode=mode,
        grace_period=options.grace_period,
        min_samples_required=options.min_samples_required,
        min_time_slice=math.inf,  # never pause: a trial would begin anew
    )


def _median_rule() -> "type[TrialScheduler]":
    """Tune's rule, which would raise on the end of a trial that has failed and has no metric."""
    from ray.tune.schedulers import MedianStoppingRule

    class MedianRule(MedianStoppingRule):  # type: ignore[misc]
        def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
            if self._metric in result:
                super().on_trial_complete(tune_controller, trial, result)

    return MedianRule
