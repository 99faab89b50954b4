"""Who stops poor trials early: names of a study file -> Ray Tune's schedulers."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from search.errors import UserError
from search.study.messages import explain
from search.study.schema import Direction, SchedulerSpec
from trainables.core.spec import Count, Spec

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class NoOptions(Spec):
    """Nothing is stopped, so nothing can be set."""


class AshaOptions(Spec):
    """Steps count a trial's reports of progress."""

    grace_period: Count = 1
    reduction_factor: float = Field(3.0, gt=1)
    max_t: Count = 100


class MedianOptions(Spec):
    """Steps count a trial's reports of progress."""

    grace_period: Count = 1
    min_samples_required: Count = 3


OPTIONS: Mapping[str, type[Spec]] = {
    "none": NoOptions,
    "asha": AshaOptions,
    "median": MedianOptions,
}


def scheduler_problems(spec: SchedulerSpec, objectives: Mapping[str, Direction]) -> list[UserError]:
    """What is wrong with a [scheduler] table."""
    try:
        OPTIONS[spec.name].model_validate(spec.options, strict=True)
    except ValidationError as error:
        return explain(error, OPTIONS[spec.name], "scheduler.")
    if spec.name == "none":
        return []
    if spec.metric is None and len(objectives) > 1:
        allowed = ", ".join(objectives)
        do = f"{spec.name} watches one metric: say which one"
        return [UserError("scheduler.metric: missing", allowed=allowed, do=do)]
    if spec.mode is None and spec.metric is not None and spec.metric not in objectives:
        do = f'{spec.metric} is no objective: say whether to keep its "min" or its "max"'
        return [UserError("scheduler.mode: missing", allowed='"min" or "max"', do=do)]
    return []


def watched(
    spec: SchedulerSpec, objectives: Mapping[str, Direction]
) -> tuple[str, Direction] | None:
    """The metric a scheduler watches and its direction; None where nothing is stopped."""
    if spec.name == "none":
        return None
    metric = spec.metric or next(iter(objectives))
    return metric, spec.mode or objectives[metric]


def make_scheduler(
    spec: SchedulerSpec, objectives: Mapping[str, Direction]
) -> "TrialScheduler | None":
    """The scheduler for Tune; None where nothing is stopped."""
    found = watched(spec, objectives)
    if found is None:
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler

    metric, mode = found
    options = OPTIONS[spec.name].model_validate(spec.options)
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
