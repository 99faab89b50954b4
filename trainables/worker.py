"""The Ray Tune trainable: one trial, from the proposed parameters to a durable result.

A worker opens its bench once and is then reused for trial after trial. Each `step` runs to the
next progress report of a stage, so a scheduler can stop a long trial in between. Nothing that goes
wrong is raised: it becomes a record. In state `fail` the trial has failed, with its reason; in
state `broken` the place or the process did, and the driver hands the trial out again. A worker
that is not to be trusted any more says so in its result (`leave`), and gets no other trial.

The driver imports this module too: what needs transformers is imported inside functions.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import ray
import torch
from ray import tune

from trainables.bench.survey import SpaceLike, gather
from trainables.core.alone import computing
from trainables.core.blame import blame, spoiled
from trainables.core.cache import write_durably
from trainables.core.errors import line_of, placed
from trainables.core.scores import from_text, scores_file
from trainables.core.spec import Assignment, BenchSpec
from trainables.core.types import Progress
from trainables.stage import Facts, Stage

if TYPE_CHECKING:
    from trainables.bench.bench import Bench
    from trainables.routing.spec import RouteSpec

Record = dict[str, Any]
Running = Generator[Progress, None, Record]
ROW = 3  # trials in a row that failed for no reason of their own: the worker goes


@dataclass(frozen=True)
class Place:
    """Where durable results go, if this machine sees the folder that the driver means.

    Attributes:
        marker: a file that the driver wrote, and its content.
    """

    results: Path
    marker: tuple[Path, str] | None = None

    def seen(self) -> bool:
        """Whether the driver's folder is here; a network file system may take a moment."""
        for pause in (0.5, 1.5, 0.0):
            if self.marker is None or _content(self.marker[0]) == self.marker[1]:
                return True
            time.sleep(pause)
        return False


class Watchdog:
    """Ends the process when a trial takes too long, even one that hangs inside a single step."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes = minutes
        self.start()

    def start(self) -> None:
        """A trial begins."""
        self.left = None if self.minutes is None else self.minutes * 60

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """While open, time runs."""
        if self.left is None:
            yield
            return
        began = time.monotonic()  # C's watchdog, as Python's own would wait for what hangs
        file = sys.__stderr__ or sys.stderr
        faulthandler.dump_traceback_later(max(self.left, 0.01), exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.left -= time.monotonic() - began


class Trial(tune.Trainable):  # type: ignore[misc]
    """A warm worker: `setup` once, then `reset_config` and `step` for every trial. A trial without
    a number asks for no more than the setup."""

    def setup(
        self,
        config: dict[str, Any],
        spec: "BenchSpec | RouteSpec",
        space: SpaceLike | None,
        study: str,
        place: Place,
        minutes: float | None = None,
        share: float = 1.0,
    ) -> None:
        """Open the bench. What fails here is told by `step`.

        Args:
            share: of a GPU that a trial has, and of its memory.
            minutes: a trial that takes longer ends, with this process.
        """
        from trainables.bench.metrics.cost import floor

        self.space: Any = space
        self.study, self.place, self.device = study, place, spec.device
        self.broken: Record | None = None
        self.shared = place.seen()
        self.node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        self.watchdog, self.failures = Watchdog(minutes), 0
        began = time.perf_counter()
        self.floor: str = spec.device
        try:
            keep_to(share, spec.device)
            self.floor = floor(torch.device(spec.device), spec.cache)
            with computing(self.floor):
                self._open(spec)
        except Exception as error:  # whatever loading raises
            self.broken = {"reason": self._reason(error), "blame": blame(error), "opening": True}
        self.opened = time.perf_counter() - began
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Take the next trial; the bench stays."""
        self.given: Assignment | None = config["given"]
        self.running: Running | None = None
        self.watchdog.start()
        if self.given is not None:
            self.running = self._run(self.given, config)
        return True

    def step(self) -> dict[str, Any]:
        """Run to the next report; the last one carries the record."""
        if self.running is None:
            return self._look_ahead()
        try:
            with self.watchdog.on(), computing(self.floor):
                return {**next(self.running), "done": False}
        except StopIteration as end:
            record, leave = self._keep(end.value), self._leave(end.value)
            text = json.dumps(record)  # as text, since Tune flattens nested results
            return {**record["metrics"], "record": text, "done": True, "leave": leave}

    def _keep(self, record: Record) -> Record:
        """Write a trial's end to disk, where the driver sees it; else it travels through Ray."""
        if not self.shared:
            return record | {"unshared": socket.gethostname()}
        if record["state"] == "broken":
            return record
        try:
            return self._written(record)
        except OSError as error:
            return record | {"unsaved": placed(error)}

    def _written(self, record: Record) -> Record:
        """A trial's end in its files: what items scored first, as the record says that all is
        there."""
        kept = {name: value for name, value in record.items() if name != "scores"}
        if text := record.get("scores"):
            write_durably(scores_file(self.place.results, record["uid"]), from_text(text).pack())
        write_durably(self.place.results / f"{record['uid']}.json", json.dumps(kept))
        return kept

    def _leave(self, record: Record) -> bool:
        """Whether this process should do no more trials."""
        failed = record["state"] == "fail" and record["blame"] == "code"
        self.failures = self.failures + 1 if failed else 0
        return record["state"] == "broken" or record.get("spoiled", False) or self.failures >= ROW

    def _look_ahead(self) -> dict[str, Any]:
        """Measure what the baseline will want to know next: both share it through the cache."""
        if self.broken is not None:
            text = json.dumps(self._head() | self.broken | {"state": "broken", "metrics": {}})
            return {"record": text, "done": True, "leave": True}
        with contextlib.suppress(Exception), computing(self.floor):  # the baseline meets it, too
            self._warm_up()
        self._release()
        text = json.dumps(self._head() | {"state": "warm"})
        return {"record": text, "done": True, "leave": False}

    def _head(self) -> Record:
        where = f"{socket.gethostname()} pid {os.getpid()}"
        return {"worker": where, "node": self.node, "began": time.time()}

    def _run(self, given: Assignment, config: Record) -> Running:
        head = asdict(given) | self._head()
        if self.broken is not None:
            return head | self.broken | {"state": "broken", "metrics": {}}
        try:
            record = yield from self._do(given, config)
            return head | {"state": "complete", "reason": None, "opened": self.opened} | record
        except Exception as error:  # a failed candidate is a failed trial, never a failed study
            return head | self._failed(error, config.get("doubt", False))
        finally:
            self._release()

    # -- what a trial is: of a study's own, stages done to the bench's model ---------------------

    def _open(self, spec: Any) -> None:
        from trainables.trial import open_bench

        self.bench: Bench = open_bench(spec if self.shared else _own_cache(spec))
        self.cache = self.bench.cache

    def _warm_up(self) -> None:
        gather(self.bench.fork(), self.space)

    def _do(self, given: Assignment, config: Record) -> Running:
        from trainables.trial import run_stages

        bench = self.bench.fork(f"{self.study}/{given.number}")
        stages = self._stages(given, config["facts"])
        record = yield from run_stages(bench, stages, config.get("race"))
        if given.number == 0:
            record["facts"] = asdict(gather(bench, self.space))
        return record

    def _stages(self, given: Assignment, facts: Facts | None) -> list[Stage]:
        if given.number == 0 or facts is None:
            return []
        stages: list[Stage] = self.space.stages(optuna.trial.FixedTrial(given.params), facts)
        return stages

    def _release(self) -> None:
        """Let go of what only that trial needed."""
        self.cache.release()
        if self.device == "cuda":
            with contextlib.suppress(RuntimeError):  # which CUDA's own trouble would raise
                torch.cuda.empty_cache()

    # -- ends ------------------------------------------------------------------------------------

    def _failed(self, error: Exception, doubt: bool) -> Record:
        """How a trial ended that raised. Where the process may be to blame, and `doubt` is asked
        for, the trial is given back, to be tried by another one."""
        whose = blame(error)
        back = whose == "place" or (doubt and whose in ("code", "process"))
        return {
            "state": "broken" if back else "fail",
            "reason": self._reason(error),
            "blame": whose,
            "where": f"{type(error).__name__} {line_of(error)}",
            "spoiled": spoiled(error),
            "metrics": {},
        }

    @staticmethod
    def _reason(error: Exception) -> str:
        from trainables.trial import reason

        return reason(error)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: stages keep their own checkpoints in the cache, by lineage."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""


class RouteTrial(Trial):
    """A warm worker of a routing study: what it is given is a call of `RouteWork`."""

    def _open(self, spec: Any) -> None:
        from trainables.routing.worker import RouteWork

        if not self.shared:  # the place is to blame: it is avoided
            raise OSError(f"{socket.gethostname()} does not see {self.place.results}: it has to")
        self.work = RouteWork(spec)
        self.cache = self.work.cache

    def _warm_up(self) -> None:
        """Nothing: what is done already needs no model."""

    def _do(self, given: Assignment, config: Record) -> Running:
        return {"metrics": {}} | (yield from self.work.do(**given.params))


def keep_to(share: float, device: str) -> None:
    """Take no more than a share of a GPU's memory: a trial that needs more fails by itself, and not
    the one beside it."""
    if device == "cuda" and 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def _own_cache(spec: BenchSpec) -> BenchSpec:
    """The spec with a cache of this machine, where the driver's folder is not."""
    folder = Path(spec.cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"rayduce-cache-{os.getuid()}"
    return spec.model_copy(update={"cache": str(folder)})


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
