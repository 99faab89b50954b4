"""Ray Tune's searcher: hands out what is to be done, and tells at once what came of it.

Nothing is kept here that the work itself does not know, so there is nothing to save or restore.
"""

import functools
import json
import time
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from search.engine.dispatch import GIVEN_UP, Record, Work
from search.engine.trouble import (
    AT_ONE_LINE,
    DEATHS,
    TRIES,
    Troubles,
    no_memory,
    node_lost,
    told_death,
)
from trainables.core.errors import UserError
from trainables.core.spec import Assignment

WORD = 60.0  # seconds of waiting for room after which, and again and again, it is said


def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """What goes wrong in a call of Tune's ends the study with its message: Tune itself buries what
    `on_trial_complete` raises, and dies of what `suggest` does."""

    @functools.wraps(call)
    def guard(searcher: "WorkSearcher", *args: Any, **kwargs: Any) -> Any:
        try:
            return call(searcher, *args, **kwargs)
        except Exception as error:  # whatever a space, a sampler or the storage raises
            searcher.plan.failed(error)
            return None

    return guard


class WorkSearcher(Searcher):  # type: ignore[misc]
    """Number 0 first (of a study's trials the baseline), then as many at a time as there is room
    for, until nothing is left to do.

    The other workers start beside number 0: each is given nothing, which means to open its bench
    and be done.
    """

    def __init__(self, plan: Work) -> None:
        super().__init__(metric=None, mode=None)
        self.plan, self.troubles = plan, Troubles()
        self.warming: set[str] = set()  # Tune's ids of workers that start up only
        self.warmed = 0  # such workers so far
        self.began: dict[str, float] = {}  # when trials got to their workers, by Tune's id
        self.asked: dict[str, float] = {}  # when they were handed out
        self.said: set[str] = set()  # warnings
        self.next_word, self.roomless = WORD, 0.0

    # -- handing out -------------------------------------------------------------------------

    @guarded
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        plan, slots = self.plan, self.plan.places.slots()
        if plan.error is not None:
            return str(Searcher.FINISHED)
        if slots == 0 and not plan.live:
            self._no_room()
            return None
        if not plan.begun and plan.live:
            return self._warm_up(trial_id, slots)
        if len(plan.live) + len(self.warming) >= slots or self.troubles.resting:
            return None
        handout = plan.next()
        if handout is None:  # while trials run, one may come back: its worker can die
            return None if plan.live else str(Searcher.FINISHED)
        plan.live[trial_id], self.asked[trial_id] = handout, time.monotonic()
        plan.show_running()
        return self._config(handout)

    def _config(self, handout: Assignment | None) -> dict[str, Any]:
        doubt = handout is not None and self.troubles.doubts(handout.number)
        return {"given": handout, "doubt": doubt} | self.plan.context(handout)

    def _warm_up(self, trial_id: str, slots: int) -> dict[str, Any] | None:
        """What a worker gets that has nothing to do before the baseline's end."""
        if self.warmed >= min(slots, self.plan.most or slots) - 1 or self.troubles.resting:
            return None
        self.warmed += 1
        self.warming.add(trial_id)
        return self._config(None)

    def _no_room(self) -> None:
        """Say that no node can hold a trial, and after a while give up."""
        now = time.monotonic()
        self.roomless = self.roomless or now
        if now > self.roomless + GIVEN_UP:
            self.plan.failed(self.plan.places.lack())
        self._word(now - self.roomless, f"{self.plan.places.lack()}; waiting for one that can")

    # -- ends --------------------------------------------------------------------------------

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: a stage's progress is for the scheduler."""

    @guarded
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:  # `died` hears why
            return
        self.warming.discard(trial_id)
        self.began.pop(trial_id, None)
        handout = self._taken(trial_id)
        reported = (result or {}).get("record")
        if reported is not None:
            self._reported(handout, json.loads(reported))
        elif handout is not None and result and result.get("done"):
            self.plan.stop(handout, _progress(result))
        self.plan.show_running()  # none of them: the driver stops, and the trial is still owed

    def _taken(self, trial_id: str) -> Assignment | None:
        self.asked.pop(trial_id, None)
        return self.plan.live.pop(trial_id, None)

    def _reported(self, handout: Assignment | None, record: Record) -> None:
        """A worker's own word: of a trial, or of having started."""
        self._warn(record)
        if record["state"] == "broken":
            self._given_back(handout, record)
            return
        self.plan.places.works(record.get("node", ""))
        if handout is not None:
            self._settled(handout, record)

    def _settled(self, handout: Assignment, record: Record) -> None:
        number = handout.number
        if number == 0 and record["state"] != "complete":
            self.plan.broken(record["reason"])
            return
        self.plan.settle(handout, record)
        if record["state"] in ("complete", "pruned"):
            self.troubles.well(number)
        else:
            self.troubles.failed(number, record)
        self._hope(record)

    def _hope(self, record: Record) -> None:
        """End the study where one mistake fails trial after trial: it would go on until the time is
        up. A trial that fails is no reason, as long as others do not, or fail of something else."""
        troubles, name = self.troubles, self.plan.name
        if troubles.alike < AT_ONE_LINE or not troubles.hopeless(measured=self.plan.measured):
            return
        what = f"the last {troubles.alike} trials failed of one thing: {record['reason']}"
        do = f"mend it, then rayduce resume {name} --retry-failed"
        if record.get("blame") == "candidate":
            do = f"rayduce resume {name} goes on all the same; other ranges are another study"
        self.plan.failed(UserError(f"study {name}: {what}", do=do))

    def _given_back(self, handout: Assignment | None, record: Record) -> None:
        """A place or a process could not do a trial, which another one will."""
        if handout is not None:
            self.plan.owe(handout)
        opened = not record.get("opening")  # where nothing opens no second process helps
        if handout is not None and opened and record["blame"] in ("code", "process"):
            self.troubles.doubted.add(handout.number)
            return
        self.plan.places.strike(record.get("node", ""))
        self._outside(f"{record['reason']} [{record.get('worker', '')}]")

    def _outside(self, reason: str) -> None:
        """Something that was no trial's fault: go on elsewhere, if there is anywhere."""
        if not self.troubles.outside() or not self.plan.places.left():
            self.plan.broken(reason)
        else:
            self._say(f"tried again, as it was no trial's fault: {reason}")

    @guarded
    def died(self, trial_id: str, error: BaseException | None) -> None:
        """A worker died, or Ray lost it."""
        self.warming.discard(trial_id)
        handout, began = self._taken(trial_id), self.began.pop(trial_id, None)
        if handout is None:
            return
        limit, said = self.plan.minutes, told_death(error)
        if began is not None and limit and time.monotonic() >= began + limit * 60:
            self._late(handout, limit)
        elif began is None or node_lost(error):
            self.plan.owe(handout)
            self._outside(said)
        else:
            self._fell(handout, said, memory=no_memory(error))
        self.plan.show_running()

    def _late(self, handout: Assignment, limit: float) -> None:
        why = f"took longer than {limit:g} minutes (budget.minutes_per_trial)"
        self._end(handout, why, "time")

    def _fell(self, handout: Assignment, said: str, *, memory: bool) -> None:
        number, tries = handout.number, self.troubles.tries
        tries[number] += 1
        if tries[number] < TRIES:
            self.plan.owe(handout)
            return
        what = "out of memory" if memory else "its workers died (out of memory?)"
        self._end(handout, f"{what}: {said}", "candidate" if memory else "worker")
        self.troubles.deaths += 1
        if self.troubles.deaths == DEATHS:
            self.plan.broken(f"the workers of {DEATHS} trials in a row died: {said}")

    def _end(self, handout: Assignment, why: str, blame: str) -> None:
        """A trial failed without a word of its own."""
        if handout.number == 0:
            self.plan.broken(f"{self.plan.first} {why}")
            return
        record = {"state": "fail", "reason": why, "blame": blame, "metrics": {}}
        self.plan.settle(handout, record)

    # -- in between --------------------------------------------------------------------------

    def started(self, trial_id: str) -> None:
        """A trial got to its worker."""
        self.began[trial_id] = time.monotonic()

    @guarded
    def tick(self) -> None:
        """Several times a second."""
        self.plan.tick()
        waiting = [since for one, since in self.asked.items() if one not in self.began]
        longest = time.monotonic() - min(waiting) if waiting else 0.0
        if longest > self.next_word and self.plan.places.waiting():
            self._word(longest, f"no room for a further trial since {longest:.0f} s: {_ROOM}")
        elif not waiting:
            self.next_word = WORD

    def _word(self, waited: float, text: str) -> None:
        """Say it, if it is time to say it again."""
        if waited >= self.next_word or waited == 0:
            self.next_word = waited + WORD
            self.plan.watcher.phase(f"warning: {text}")

    def _warn(self, record: Record) -> None:
        if host := record.get("unshared"):
            self._say(
                f"{host} does not see the results' folder: results travel through Ray, and its "
                "cache is its own"
            )
        if why := record.get("unsaved"):
            self._say(f"results cannot be written, and travel through Ray: {why}")

    def _say(self, text: str) -> None:
        """A warning, once."""
        if text not in self.said:
            self.said.add(text)
            self.plan.watcher.phase(f"warning: {text}")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles the searcher for a restore that we never make."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""


_ROOM = "others use the cluster, or its nodes are gone"


def _progress(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if isinstance(value, float)}
