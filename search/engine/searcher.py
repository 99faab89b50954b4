"""Ray Tune's searcher over our journal: hands out trials, and tells their ends at once.

Nothing is kept here that the journal does not have, so there is nothing to save or restore.
"""

import json
import time
from typing import Any

from ray.tune.search import Searcher

from search.engine.dispatch import Plan
from search.journal.journal import Record
from search.samplers.grid import exhausted
from trainables.core.errors import UserError
from trainables.core.spec import Assignment

TRIES = 3  # a trial gets, where its workers die
DEATHS = 5  # trials in a row whose workers died: then it is not the trials


class JournalSearcher(Searcher):  # type: ignore[misc]
    """The baseline first, then up to `workers` trials at a time until the budget is spent.

    The other workers start beside the baseline: each gets a number of None, which means to open
    its bench and be done.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(metric=None, mode=None)
        self.plan = plan

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
        plan.live[trial_id] = handout
        plan.on_change()
        facts = plan.journal.noted("facts") if handout.number else None
        return {
            "number": handout.number,
            "uid": handout.uid,
            "params": handout.params,
            "facts": facts,
        }

    def _warm_up(self, trial_id: str) -> dict[str, Any] | None:
        """What a worker gets that has nothing to do before the baseline's end."""
        if self.plan.cold == 0:
            return None
        self.plan.cold -= 1
        self.plan.warming.add(trial_id)
        return {"number": None, "uid": "", "params": {}, "facts": None}

    def _next(self) -> Assignment | None:
        """The next trial the space accepts, while the budget lasts."""
        journal = self.plan.journal
        while journal.owed or not (self._spent() or time.time() > self.plan.until):
            if (handout := journal.hand_out(self.plan.ask)) is not None:
                return handout
        return None

    def _spent(self) -> bool:
        wanted, copy = self.plan.trials, self.plan.journal.copy
        if copy is not None and exhausted(copy):
            return True
        return wanted is not None and len(self.plan.journal.trials()) >= wanted + 1

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.plan.on_change()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.plan.warming.discard(trial_id)
        handout = self.plan.live.pop(trial_id, None)
        if handout is None:
            return
        reported = (result or {}).get("record")
        record = None if reported is None else json.loads(reported)
        if record is not None:
            self._settled(handout, record)
        elif error:
            self._died(handout)
        elif result and result.get("done"):
            self.plan.journal.stop(handout.number, _progress(result))
        self.plan.on_change()  # neither: the driver is being stopped, and the trial is still owed

    def _settled(self, handout: Assignment, record: Record) -> None:
        if handout.number == 0 and record["state"] != "complete":
            self.plan.broken(record["reason"])
            return
        self.plan.deaths = 0
        self.plan.journal.settle(handout.number, record)
        if handout.number == 0:
            self._ready(record["facts"])

    def _ready(self, facts: dict[str, Any]) -> None:
        try:
            self.plan.ask = self.plan.on_facts(facts)
        except UserError as error:  # Tune would bury it in a traceback of its own
            self.plan.error = error

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
