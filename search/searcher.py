"""Ray Tune's searcher over our journal: hands out trials, and tells their ends at once.

Nothing is kept here that the journal does not have, so there is nothing to save or restore.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from ray.tune.search import Searcher

from search.errors import UserError
from search.journal import Handout, Journal, Record

Ask = Callable[[optuna.Trial], object]


@dataclass
class Plan:
    """What the searcher needs of a launch."""

    journal: Journal
    trials: int | None  # in all, without the baseline
    until: float  # no new trial after this time
    workers: int
    on_facts: Callable[[dict[str, Any]], Ask]  # the baseline's facts -> how to run the space
    on_change: Callable[[], None]  # something to show
    ask: Ask | None = None
    live: dict[str, Handout] = field(default_factory=dict)  # by Tune's trial id
    error: UserError | None = None  # why no trial of this study can run

    def broken(self, why: object) -> None:
        """Note that no trial can run."""
        self.error = UserError(f"study {self.journal.name}: no trial can run: {why}")


class JournalSearcher(Searcher):  # type: ignore[misc]
    """The baseline alone first, then up to `workers` trials at a time until the budget is spent."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(metric=None, mode=None)
        self.plan = plan

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        plan = self.plan
        if plan.error is not None:
            return str(Searcher.FINISHED)
        waiting = len(plan.live) >= (plan.workers if plan.ask else 1)
        if waiting:
            return None
        handout = self._next()
        if handout is None:
            return str(Searcher.FINISHED)
        plan.live[trial_id] = handout
        plan.on_change()
        facts = plan.journal.noted("facts") if handout.number else None
        return {
            "number": handout.number,
            "uid": handout.uid,
            "params": handout.params,
            "facts": facts,
        }

    def _next(self) -> Handout | None:
        """The next trial the space accepts, while the budget lasts."""
        journal = self.plan.journal
        while journal.owed or not (self._spent() or time.time() > self.plan.until):
            if (handout := journal.hand_out(self.plan.ask)) is not None:
                return handout
        return None

    def _spent(self) -> bool:
        wanted = self.plan.trials
        return wanted is not None and len(self.plan.journal.trials()) >= wanted + 1

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.plan.on_change()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        handout = self.plan.live.pop(trial_id, None)
        if handout is None:
            return
        record = (result or {}).get("record")
        if record is not None and record["state"] == "broken":
            self.plan.broken(record["reason"])
        elif record is not None:
            self._settled(handout, record)
        elif error or result is None:
            self._died(handout)
        else:
            self.plan.journal.stop(handout.number, _progress(result))
        self.plan.on_change()

    def _settled(self, handout: Handout, record: Record) -> None:
        if handout.number == 0 and record["state"] != "complete":
            self.plan.broken(record["reason"])
            return
        self.plan.journal.settle(handout.number, record)
        if handout.number == 0:
            self._ready(record["facts"])

    def _ready(self, facts: dict[str, Any]) -> None:
        try:
            self.plan.ask = self.plan.on_facts(facts)
        except UserError as error:  # Tune would bury it in a traceback of its own
            self.plan.error = error

    def _died(self, handout: Handout) -> None:
        if handout.number == 0:
            self.plan.broken("the worker died while it measured the baseline (out of memory?)")
        else:
            reason = "the worker died again and again (out of memory?)"
            self.plan.journal.fail(handout.number, reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""


def _progress(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if isinstance(value, float)}
