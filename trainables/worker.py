"""The Ray Tune trainable: one trial, from the proposed parameters to a durable result.

A worker opens its bench once and is then reused for trial after trial. Each `step` runs to the
next progress report of a stage, so a scheduler can stop a long trial in between. Nothing that goes
wrong in a trial is raised: it becomes a failed result with a reason. Only a worker that cannot
open its bench where others could raises, so that Tune starts another one.

The driver imports this module too: what needs transformers is imported inside functions.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from ray import tune

from trainables.bench.survey import SpaceLike, gather
from trainables.core.cache import write_durably
from trainables.core.spec import Assignment, BenchSpec
from trainables.core.types import Progress
from trainables.stage import Facts, Stage

if TYPE_CHECKING:
    from trainables.bench.bench import Bench


class Trial(tune.Trainable):  # type: ignore[misc]
    """A warm worker: `setup` once, then `reset_config` and `step` for every trial. A trial without
    a number asks for no more than the setup."""

    def setup(
        self, config: dict[str, Any], spec: BenchSpec, space: SpaceLike, study: str, results: Path
    ) -> None:
        """Open the bench. What fails here is every trial's reason, reported by `step`."""
        from trainables.trial import open_bench, reason

        self.space, self.study, self.results = space, study, results
        self.broken: str | None = None
        self.opened = time.perf_counter()
        try:
            self.bench: Bench = open_bench(spec)
        except Exception as error:  # any failure to load is the study's, with its own message
            self.broken = reason(error)
        self.opened = time.perf_counter() - self.opened
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Take the next trial; the bench stays."""
        self.running: Generator[Progress, None, dict[str, Any]] | None = None
        given: Assignment | None = config["given"]
        facts: Facts | None = config["facts"]
        if given is not None:
            self.running = self._run(given, facts)
        return True

    def step(self) -> dict[str, Any]:
        """Run to the next report; the last one carries the record."""
        if self.running is None:
            self._look_ahead()
            return {"done": True}
        try:
            return {**next(self.running), "done": False}
        except StopIteration as end:
            text = json.dumps(end.value)  # as text, since Tune flattens nested results
            write_durably(self.results / f"{end.value['uid']}.json", text)
            return {**end.value["metrics"], "record": text, "done": True}

    def _look_ahead(self) -> None:
        """Measure what the baseline will want to know next: both share it through the cache."""
        if self.broken is not None:
            return
        with contextlib.suppress(Exception):  # the baseline meets it too, and says so
            gather(self.bench.fork(), self.space)
        self.bench.cache.release()

    def _run(
        self, given: Assignment, facts: Facts | None
    ) -> Generator[Progress, None, dict[str, Any]]:
        from trainables.trial import reason, run_stages

        where = f"{socket.gethostname()} pid {os.getpid()}"
        head = asdict(given) | {"worker": where, "began": time.time()}
        if self.broken is not None:
            if given.number > 0:  # the baseline ran elsewhere: this worker's own trouble
                raise RuntimeError(self.broken)
            return head | {"state": "broken", "reason": self.broken, "metrics": {}}
        bench = self.bench.fork(f"{self.study}/{given.number}")
        try:
            record = yield from run_stages(bench, self._stages(given, facts))
            if given.number == 0:
                record["facts"] = asdict(gather(bench, self.space))
            return head | record | {"state": "complete", "reason": None, "opened": self.opened}
        except Exception as error:  # a failed candidate is a failed trial, never a failed study
            return head | {"state": "fail", "reason": reason(error), "metrics": {}}
        finally:
            bench.cache.release()
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()

    def _stages(self, given: Assignment, facts: Facts | None) -> list[Stage]:
        if given.number == 0 or facts is None:
            return []
        return self.space.stages(optuna.trial.FixedTrial(given.params), facts)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: stages keep their own checkpoints in the cache, by lineage."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""
