"""Similarity pruning in passes: prune, retrain, and go on only while the model stays good enough.

A pass clusters the model as it is now, prunes, retrains and measures. If the metric has fallen too
far the pass is undone and tried again with the next k, which spares more blocks. Every pass is
shared with all trials that come by the same model, as its stages would be on their own.

Source: "MPruner", 2024 (arXiv 2408.13482).
"""

import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.errors import MetricError
from trainables.core.lineage import Effect
from trainables.core.pictures import Bars, Heatmap
from trainables.core.spec import Task
from trainables.core.types import Progress
from trainables.recover import Recover, require_metric
from trainables.similarity.method import Similarity
from trainables.stage import Bench, Stage, Summary

_POINTS = {"share": 100.0, "of 100": 1.0}  # points in one unit of a metric
QUALITY = tuple(  # what a pass may be judged by: how good the model is, not how small or fast
    name
    for name, facts in METRIC_FACTS.items()
    if not facts.timed and (facts.unit in _POINTS or name in ("perplexity", "loss"))
)


@dataclass(frozen=True)
class Iterate(Stage):
    """Passes of similarity pruning and retraining, each accepted or undone.

    Attributes:
        max_drop: how much worse than the model that the stage found a pass may be: in points
            (hundredths of a share) where more is better; in percent of that model's value where
            less is better, such as perplexity.
        metric: what a pass is judged by; empty: perplexity, accuracy or ROUGE-L, by the task.
    """

    similarity: Similarity = field(default_factory=Similarity)
    recover: Recover = field(default_factory=Recover)
    passes: int = 1
    max_drop: float = 4.0
    max_k: int = 3
    metric: str = ""

    def __post_init__(self) -> None:
        self.require("passes", type(self.passes) is int and self.passes >= 1, "from 1 on")
        self.require("max_k", self.max_k >= self.similarity.k, "similarity.k or more")
        self.require("max_drop", self.max_drop >= 0, "0 or more")
        self.require("metric", self.metric in ("", *QUALITY), " or ".join(QUALITY))

    def settings(self) -> dict[str, Any]:
        """In one level, as the fields of what it is made of have different names."""
        own = {name: getattr(self, name) for name in ("passes", "max_drop", "max_k", "metric")}
        parts = {"similarity": type(self.similarity).__name__, **self.similarity.settings()}
        return parts | own | self.recover.settings()

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Do the passes; the last accepted model stays."""
        chosen = self._chosen(bench)
        found = accepted = bench.subject
        original, k = _value(bench, chosen.metric), self.similarity.k
        log: list[_Pass] = []
        stopped = "all passes done"
        while sum(one.accepted for one in log) < self.passes:
            if k > self.max_k:
                stopped = f"k = {self.max_k} still loses too much"
                break
            bench.subject = accepted.fork()
            done = yield from chosen._pass(bench, k, original, len(log) + 1)
            if done is None:
                stopped = "no blocks are alike"
                break
            log.append(done)
            if done.accepted:
                accepted = bench.subject
            else:
                k += 1
        bench.subject = replace(found, model=accepted.model)
        passes = [one.told for one in log]
        details = {"metric": chosen.metric, "original": original}
        details |= {"passes": passes, "stopped": stopped}
        return self._summary(log, {"k": k}, details)

    def check(self, bench: Bench) -> None:
        """Raises FieldError where `metric` or `watch` does not fit the bench's task."""
        self._chosen(bench)

    def _chosen(self, bench: Bench) -> "Iterate":
        """The same with a metric. Raises FieldError where one does not fit the task."""
        chosen = replace(self, metric=self.metric or _USUAL[bench.spec.data.task])
        require_metric(chosen, "metric", bench)
        if self.recover.watch:
            require_metric(self.recover, "watch", bench)
        return chosen

    def _pass(
        self, bench: Bench, k: int, original: float, number: int
    ) -> Generator[Progress, None, "_Pass | None"]:
        """One pass at one k; None where nothing can be removed."""
        prune = replace(self.similarity, k=k)
        cut = yield from prune.on(bench)
        if not cut.effects:
            return None
        bench.subject = bench.subject.after(prune, cut)
        trained = yield from self.recover.on(bench)
        bench.subject = bench.subject.after(self.recover, trained)
        shown = {"k": float(k), "blocks": float(cut.counts["blocks"])}
        try:
            value = _value(bench, self.metric)
        except MetricError as error:  # no finite number: the pass broke the model
            yield shown
            return _Pass(number, k, cut, trained, {"broken": str(error)}, math.inf, self.max_drop)
        drop = _drop(self.metric, original, value)
        yield {self.metric: value, **shown}
        measured = {self.metric: value, "drop": drop}
        return _Pass(number, k, cut, trained, measured, drop, self.max_drop)

    def _summary(self, log: "list[_Pass]", counts: dict[str, int], details: Any) -> Summary:
        accepted = [one for one in log if one.accepted]
        freeze = " part" if self.recover.freeze == "part" else ""
        label = f"T{self.similarity.threshold:g} K"
        if accepted:
            counts = {**counts, **accepted[-1].counts}
            label += f"{accepted[-1].k} pass {len(accepted)}{freeze}"
        return Summary(
            tuple(effect for one in accepted for effect in one.effects),
            counts,
            details,
            pictures=tuple(picture for one in log for picture in one.pictures),
            label=label,
        )


_USUAL: dict[Task, str] = {
    "language-modelling": "perplexity",
    "classification": "accuracy",
    "multiple-choice": "accuracy",
    "image-classification": "accuracy",
    "generation": "rouge_l",
}


def _drop(metric: str, original: float, value: float) -> float:
    """How much worse: in points, or in percent of the original where less is better."""
    facts = METRIC_FACTS[metric]
    if facts.direction == "max":
        return (original - value) * _POINTS[facts.unit]
    if original <= 0:
        return 0.0 if value <= original else math.inf
    return 100.0 * (value - original) / original


@dataclass(frozen=True)
class _Pass:
    """How one pass went."""

    number: int
    k: int
    cut: Summary
    trained: Summary
    measured: Mapping[str, Any]
    drop: float
    max_drop: float

    @property
    def accepted(self) -> bool:
        return self.drop <= self.max_drop + 1e-9

    @property
    def effects(self) -> tuple[Effect, ...]:
        return self.cut.effects + self.trained.effects

    @property
    def counts(self) -> dict[str, Any]:
        return {**self.cut.counts, **self.trained.counts}

    @property
    def told(self) -> dict[str, Any]:
        """For records."""
        known = {**self.counts, **self.cut.details, **self.trained.details, **self.measured}
        return {"k": self.k, **known, "accepted": self.accepted}

    @property
    def pictures(self) -> Iterator[Heatmap | Bars]:
        undone = "" if self.accepted else ", undone"
        for one in self.cut.pictures:
            yield replace(one, title=f"pass {self.number}, {one.title}{undone}")


def _value(bench: Bench, metric: str) -> float:
    """Measured along with the objectives, so that nothing is measured twice."""
    names = tuple(dict.fromkeys((metric, *bench.spec.objectives)))
    return bench.measure(names).values[metric]
