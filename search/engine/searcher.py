"""Ray Tune's searcher over our journal: hands out trials, and tells their ends at once.

Nothing is kept here that the journal does not have, so there is nothing to save or restore.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from search.engine.dispatch import Plan
from search.journal.journal import Record
from search.samplers.grid import is_grid
from trainables.core.spec import Assignment
from trainables.stage import Facts

TRIES = 3  # a trial gets, where its workers die
REFUSALS = 20  # points in a row, by a space that may refuse some: then it refuses all
DEATHS = 5  # trials in a row whose workers died: then it is not the trials


def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong in a call of Tune's ends the study with its message: Tune itself buries what
    `on_trial_complete` raises, and dies of what `suggest` does."""

    @functools.wraps(call)
    def guard(searcher: "JournalSearcher", *args: Any, **kwargs: Any) -> Any:
        try:
            return call(searcher, *args, **kwargs)
        except Exception as error:  # whatever a space, a sampler or the storage raises
            searcher.plan.failed(error)
            return None

    return guard


class JournalSearcher(Searcher):  # type: ignore[misc]
    """The baseline first, then up to `workers` trials at a time until the budget is spent.

    The other workers start beside the baseline: each gets a number of None, which means to open
    its bench and be done.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(metric=None, mode=None)
        self.plan = plan

    @guarded
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        plan = self.plan
        if plan.error is not None:
            return str(Searcher.FINISHED)
        if plan.ask is None and plan.live:
            return self._warm_up(trial_id)
        if len(plan.live) + len(plan.warming) >= plan.workers:
            return None
        handout = self._next()
        if handout is None:  # while trials run, one may come back: its worker can die
            return None if plan.live else str(Searcher.FINISHED)
        if plan.ask is None:
            plan.watcher.phase("measuring the untouched model")
        plan.live[trial_id] = handout
        plan.show_running()
        return {"given": handout, "facts": plan.facts}

    def _warm_up(self, trial_id: str) -> dict[str, Any] | None:
        """What a worker gets that has nothing to do before the baseline's end."""
        if self.plan.cold == 0:
            return None
        self.plan.cold -= 1
        self.plan.warming.add(trial_id)
        return {"given": None, "facts": None}

    def _next(self) -> Assignment | None:
        """The next trial the space accepts, while the budget lasts."""
        journal = self.plan.journal
        while self.plan.error is None and (journal.owed or not self.plan.spent):
            if (handout := journal.hand_out(self.plan.ask)) is not None:
                self.plan.refusals = 0
                return handout
            self._refused(len(journal.trials()) - 1)
        return None

    def _refused(self, number: int) -> None:
        self.plan.on_end(number)
        self.plan.refusals += 1
        journal = self.plan.journal
        if self.plan.refusals == REFUSALS and not is_grid(journal.copy):  # a grid has an end
            why = journal.trials()[number].user_attrs["record"]["reason"]
            self.plan.broken(f"{REFUSALS} points in a row came to nothing, the last as {why}")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: a stage's progress is for the scheduler."""

    @guarded
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.plan.warming.discard(trial_id)
        handout = self.plan.live.pop(trial_id, None)
        if handout is None:
            return
        reported = (result or {}).get("record")
        if reported is not None:
            self._settled(handout, json.loads(reported))
        elif error:
            self._died(handout)
        elif result and result.get("done"):
            self.plan.journal.stop(handout.number, _progress(result))
            self.plan.on_end(handout.number)
        self.plan.show_running()  # none of them: the driver stops, and the trial is still owed

    def _settled(self, handout: Assignment, record: Record) -> None:
        if handout.number == 0 and record["state"] != "complete":
            self.plan.broken(record["reason"])
            return
        self.plan.deaths = 0
        self.plan.journal.settle(handout.number, record)
        self.plan.on_end(handout.number)
        if handout.number == 0:
            self.plan.ready(Facts.read(record["facts"]))

    def _died(self, handout: Assignment) -> None:
        number, tries = handout.number, self.plan.tries
        tries[number] = tries.get(number, 0) + 1
        if tries[number] < TRIES:
            self.plan.journal.owe(number)
            return
        if number == 0:
            self.plan.broken("the workers died that measured the baseline (out of memory?)")
            return
        self.plan.journal.fail(number, "its workers died (out of memory?)")
        self.plan.on_end(number)
        self.plan.deaths += 1
        if self.plan.deaths == DEATHS:
            self.plan.broken(f"the workers of {DEATHS} trials in a row died")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles the searcher for a restore that we never make."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""


def _progress(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if isinstance(value, float)}
