"""Runs a study, new or interrupted: the lock, the journal, Ray Tune, the ledger.

Launching and resuming are the same thing. Finished trials count, interrupted ones are handed out
again under their number, and the rest of the budget runs.
"""

import contextlib
import inspect
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from search.errors import UserError
from search.journal import Journal
from search.ledger import Mirror
from search.points import read_point
from search.resources import check_resources
from search.samplers import make_sampler
from search.schedulers import make_scheduler
from search.searcher import Ask, JournalSearcher, Plan
from search.space import Space, load_space
from search.storage import Store, open_storage, study_lock
from search.study import bench_spec, compare, constraint_keys, limits, parse_study, study_toml
from search.tables import Study
from trainables.bench.facts import Facts, hook

ENDLESS = 10 * 365 * 24 * 3600.0  # seconds


@dataclass
class Watcher:
    """What a launch tells the screen; the default tells nobody."""

    phase: Callable[[str], None] = lambda text: None
    change: Callable[[Journal, Plan], None] = lambda journal, plan: None


@dataclass
class Launch:
    """One run of one study."""

    study: Study
    store: Store
    watcher: Watcher = field(default_factory=Watcher)

    def run(self) -> Journal:
        """Search until the budget is spent or someone interrupts.

        Raises:
            UserError: the study cannot run: its space, its points, its model or its data are
                wrong, another driver runs it, or it differs from what was launched before.
        """
        check_resources(self.study.resources)
        with study_lock(self.store):
            storage = open_storage(self.store, create=True)
            self._continue()
            self.watcher.phase("loading the space")
            space = load_space(self.study.space)
            journal = open_journal(self.study, storage)
            journal.reclaim(self.store.results)
            self.store.toml.write_text(study_toml(self.study), encoding="utf-8")
            journal.note("toml", study_toml(self.study))
            journal.note("git_commit", git_commit())
            with Mirror(self.study, self.store) as mirror:
                self._search(journal, space, mirror)
            return journal

    def _continue(self) -> None:
        """Refuse to go on with another study under the same name."""
        if not self.store.toml.exists():
            return
        before = parse_study(self.store.toml.read_text(encoding="utf-8"), str(self.store.toml))
        if changes := compare(before, self.study):
            raise UserError(
                f"study {self.study.name} was launched with other settings:\n  "
                + "\n  ".join(changes),
                do="give the study a new name, or undo the changes",
            )

    def _search(self, journal: Journal, space: Space, mirror: Mirror) -> None:
        began, spent = time.time(), float(journal.noted("seconds") or 0)
        hours = self.study.budget.hours
        plan = Plan(
            journal=journal,
            trials=self.study.budget.trials,
            until=began - spent + hours * 3600 if hours else began + ENDLESS,
            workers=self.study.resources.workers or 1,
            on_facts=lambda facts: self._ready(journal, space, Facts(**facts)),
            on_change=lambda: self._changed(journal, plan, mirror),
        )
        facts = journal.noted("facts")
        if facts is not None and journal.baseline() is not None:
            plan.ask = plan.on_facts(facts)
        if self._done(journal, plan):
            return
        try:
            with ray_cluster(self.study, self.watcher) as workers:
                plan.workers = workers
                run_tune(self.study, self.store, space, plan)
        finally:
            journal.note("seconds", spent + time.time() - began)
        if plan.error is not None:
            raise plan.error

    def _done(self, journal: Journal, plan: Plan) -> bool:
        enough = plan.trials is not None and len(journal.trials()) > plan.trials
        return enough and not journal.owed

    def _ready(self, journal: Journal, space: Space, facts: Facts) -> Ask:
        """With the facts known: check the first points, load the sampler, return how to ask."""

        def ask(trial: Any) -> object:
            return space(trial, facts)

        first = [
            read_point(point, ask, f"first[{index}]")
            for index, point in enumerate(self.study.first)
        ]
        starts = [read_point(point, ask, "starts") for point in _starts(space, facts)]
        sampler = make_sampler(
            self.study.sampler,
            seed=self.study.seed,
            existing=len(journal.trials()),
            trials=self.study.budget.trials,
            ask=ask,
        )
        journal.begin(sampler, [*first, *starts])
        return ask

    def _changed(self, journal: Journal, plan: Plan, mirror: Mirror) -> None:
        mirror.offer()
        self.watcher.change(journal, plan)


def open_journal(study: Study, storage: BaseStorage) -> Journal:
    """The study's journal with its objectives and constraints."""
    constraints = limits(study)
    keys = constraint_keys(constraints)
    return Journal(storage, study.name, study.objectives, dict(zip(keys, constraints, strict=True)))


def _starts(space: Space, facts: Facts) -> Sequence[dict[str, Any]]:
    """The points the space itself proposes, given those overrides its `starts` takes."""
    starts = hook(space, "starts")
    if starts is None:
        return []
    given = space.keywords if isinstance(space, partial) else {}
    taken = inspect.signature(starts).parameters
    found: list[dict[str, Any]] = starts(facts, **{k: v for k, v in given.items() if k in taken})
    return found


def git_commit() -> str | None:
    """The commit of the code that runs, with a mark where files differ from it."""
    here = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


@contextlib.contextmanager
def ray_cluster(study: Study, watcher: Watcher) -> Iterator[int]:
    """Connect to Ray (RAY_ADDRESS, or start it here); yields how many trials fit at once."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "31536000")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = os.environ.get("RAY_ADDRESS", "local") in ("", "local")
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    watcher.phase("starting Ray" if local else f"connecting to {os.environ['RAY_ADDRESS']}")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if local:
        options |= {"address": "local", "include_dashboard": False}
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        root = str(Path(__file__).resolve().parent.parent)
        unwanted = ["mlflow/", ".git/", ".venv/", "runs/", "tests/"]
        options |= {"runtime_env": {"working_dir": root, "excludes": unwanted}}
    ray.init(**options)
    try:
        yield _slots(study, ray.cluster_resources())
    finally:
        ray.shutdown()


def _slots(study: Study, have: dict[str, float]) -> int:
    """How many trials fit at once."""
    wanted = study.resources
    fits = have.get("CPU", 0) // wanted.cpus
    if wanted.gpus:
        fits = min(fits, have.get("GPU", 0) // wanted.gpus)
    if fits < 1:
        raise UserError(
            "resources: no node can hold a trial",
            got={"cpus": wanted.cpus, "gpus": wanted.gpus},
            allowed=f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs in all",
        )
    return int(min(fits, wanted.workers or fits))


def run_tune(study: Study, store: Store, space: Space, plan: Plan) -> None:
    """Let Ray Tune execute what the searcher hands out, on warm workers."""
    from ray import tune

    from trainables.trial import Trial

    trainable = tune.with_parameters(
        Trial,
        spec=bench_spec(study, store.cache),
        space=space,
        study=study.name,
        results=store.results,
    )
    wanted: dict[str, float] = {"cpu": study.resources.cpus, "gpu": study.resources.gpus}
    if study.resources.memory_gb:
        wanted["memory"] = study.resources.memory_gb * 1e9
    with tempfile.TemporaryDirectory(prefix="rayduce-") as scratch:
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
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
