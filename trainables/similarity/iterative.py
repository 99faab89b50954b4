"""Similarity pruning in passes: prune, retrain, and go on only while the model stays good enough.

A pass clusters the model as it is now, prunes, retrains and measures. If the metric has fallen too
far the pass is undone and tried again with the next k, which spares more blocks. Every pass is
shared with all trials that come by the same model, as its stages would be on their own.

Source: "MPruner", 2024 (arXiv 2408.13482).
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainables.bench.models.structure import blocks, stacks
from trainables.bench.models.fork import fork
from trainables.core.types import Bench, PreTrainedModel
from trainables.core.lineage import Lineage
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.recover import Recover
from trainables.stage import Progress, Stage, Summary
from trainables.similarity.method import Similarity


@dataclass(frozen=True)
class Iterate(Stage):
    """Passes of similarity pruning and retraining, each accepted or undone."""

    similarity: Similarity = field(default_factory=Similarity)
    recover: Recover = field(default_factory=Recover)
    passes: int = 1
    max_drop: float = 4.0  # points (hundredths of a share) below the model that the stage found
    max_k: int = 3
    metric: str = "accuracy"  # more is better

    def __post_init__(self) -> None:
        self.require("passes", type(self.passes) is int and self.passes >= 1, "from 1 on")
        self.require("max_k", self.max_k >= self.similarity.k, "similarity.k or more")
        self.require("max_drop", self.max_drop >= 0, "0 points or more")
        facts = METRIC_FACTS.get(self.metric)
        good = facts is not None and facts.direction == "max" and facts.unit in _POINTS
        allowed = [n for n, f in METRIC_FACTS.items() if f.direction == "max" and f.unit in _POINTS]
        self.require("metric", good, " or ".join(allowed))

    def settings(self) -> dict[str, Any]:
        """In one level, as the fields of what it is made of have different names."""
        own = {name: getattr(self, name) for name in ("passes", "max_drop", "max_k", "metric")}
        parts = {"similarity": type(self.similarity).__name__, **self.similarity.settings()}
        return parts | own | self.recover.settings()

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Do the passes; the last accepted model stays."""
        original, k = _value(bench, self.metric), self.similarity.k
        start = accepted = _Mark.of(bench)
        log: list[dict[str, Any]] = []
        stopped = "all passes done"
        while sum(entry["accepted"] for entry in log) < self.passes:
            if k > self.max_k:
                stopped = f"k = {self.max_k} still loses too much"
                break
            accepted.restore(bench)
            entry, effects = yield from self._pass(bench, k, original)
            if entry is None:
                stopped = "no blocks are alike"
                break
            log.append(entry)
            if entry["accepted"]:
                accepted = _Mark.of(bench, *accepted.effects, *effects)
            else:
                k += 1
        start.restore(bench)
        bench.model = accepted.model
        counts = {"original": original, "passes": log, "k": k, "stopped": stopped}
        effect = {"chain": list(accepted.effects)} if accepted.effects else None
        return Summary(effect, counts | _left(accepted.model))

    def _pass(
        self, bench: Bench, k: int, original: float
    ) -> Generator[Progress, None, tuple[dict[str, Any] | None, list[Mapping[str, Any]]]]:
        """One pass at one k: how it went, and its effects; None where nothing can be removed."""
        prune = replace(self.similarity, k=k)
        cut = yield from prune.on(bench)
        if cut.effect is None:
            return None, []
        bench.advance(prune, cut)
        trained = yield from self.recover.on(bench)
        bench.advance(self.recover, trained)
        value = _value(bench, self.metric)
        drop = (original - value) * _POINTS[METRIC_FACTS[self.metric].unit]
        entry = {
            "k": k,
            **cut.counts,
            **trained.counts,
            self.metric: value,
            "drop": drop,
            "accepted": drop <= self.max_drop + 1e-9,
        }
        yield {self.metric: value, "k": float(k), "blocks": float(cut.counts["blocks"])}
        return entry, [summary.effect for summary in (cut, trained) if summary.effect]


_POINTS = {"share": 100.0, "of 100": 1.0}  # points in one unit of a metric


@dataclass(frozen=True)
class _Mark:
    """A model to come back to."""

    model: PreTrainedModel
    lineage: Lineage
    history: tuple[tuple[Stage, Summary], ...]
    effects: tuple[Mapping[str, Any], ...] = ()  # since the stage began

    @classmethod
    def of(cls, bench: Bench, *effects: Mapping[str, Any]) -> "_Mark":
        """The bench's model as it is now."""
        return cls(bench.model, bench.lineage, tuple(bench.history), effects)

    def restore(self, bench: Bench) -> None:
        """A fresh fork of the model, under its lineage."""
        bench.model = fork(self.model)
        bench.lineage, bench.history = self.lineage, list(self.history)


def _value(bench: Bench, metric: str) -> float:
    """Measured along with the objectives, so that nothing is measured twice."""
    measured, _ = bench.measure(tuple(dict.fromkeys((metric, *bench.spec.objectives))))
    return measured[metric]


def _left(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "blocks": len(blocks(model)),
        "kept_per_stack": [len(stack.blocks) for stack in stacks(model)],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
