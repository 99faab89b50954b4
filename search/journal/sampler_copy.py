"""The sampler's copy of the journal: an Optuna study in memory, in which proposals are worked out.

It leaves out the baseline, which has no parameters, and the records, which are large. It holds what
the journal holds and nothing else, so that an interrupted search goes on as if it had not been.
"""

import contextlib
import copy
import itertools
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.errors import blaming
from search.samplers.build import Source
from search.samplers.grid import METRICS, Listed, exhausted, is_grid
from search.samplers.points import Ask, key_of

ATTEMPTS = 8  # points that a sampler may propose in vain, before one is taken from elsewhere


@dataclass(frozen=True)
class Proposal:
    """A point that a sampler proposed.

    Attributes:
        key: the identity of the stages it means; None where the space returned none.
        refused: why the space refused it, if it did.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    system_attrs: Mapping[str, Any]
    key: str | None
    refused: str | None


class SamplerCopy:
    """What a sampler sees.

    Attributes:
        study: the trials in memory.
    """

    def __init__(self, sampler: BaseSampler | Source, directions: list[StudyDirection]) -> None:
        self.source = sampler if isinstance(sampler, Source) else Source(lambda *_: sampler)
        self._drafts = _Drafts()
        with _quiet():
            self.study = optuna.create_study(
                storage=self._drafts, sampler=self.source(0, 0), directions=directions
            )
        self._ids: dict[int, int] = {}  # by the number in the journal

    @property
    def state(self) -> dict[str, Any]:
        """What the sampler keeps beside the trials."""
        return self._drafts.get_study_system_attrs(self.study._study_id)

    def recall(self, state: Mapping[str, Any]) -> None:
        """Put back what the sampler kept beside the trials."""
        for key, value in state.items():
            self._drafts.set_study_system_attr(self.study._study_id, key, value)

    def add(self, row: FrozenTrial) -> None:
        """Copy a row of the journal."""
        row = as_seen(row)
        light = _Row(
            number=row.number,
            trial_id=-1,  # the storage gives it one
            state=row.state,
            value=None,
            values=row.values,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params=row.params,
            distributions=row.distributions,
            user_attrs=self._metrics(row),
            system_attrs=row.system_attrs,
            intermediate_values=row.intermediate_values,
        )
        self._ids[row.number] = self._drafts.create_new_trial(self.study._study_id, light)

    def _metrics(self, row: FrozenTrial) -> dict[str, Any]:
        """What a trial measured, for samplers that go by it."""
        sampler = self.study.sampler
        if not isinstance(sampler, Listed) or not sampler.reads_metrics:
            return {}
        return {METRICS: row.user_attrs.get("record", {}).get("metrics", {})}

    def propose(
        self, ask: Ask, known: Collection[str] = (), point: Mapping[str, Any] | None = None
    ) -> Proposal | None:
        """A point whose stages are not known, or that the space refused; None where the sampler
        keeps to what is known, or has nothing more to propose.

        The copy stays as it was: a proposal belongs to it once the journal has it.

        Args:
            ask: runs the space on a trial.
            known: the stages that were tried, or are.
            point: what to propose; None leaves it to the sampler.
        """
        lists = point is None and is_grid(self.study)
        try:
            for attempt in itertools.count():  # what came in vain is a trial that runs, up to here
                found = self._draft(ask, point, attempt)
                if found.key is None or found.key not in known:
                    return found
                if exhausted(self.study) or (attempt + 1 >= ATTEMPTS and not lists):
                    break
            return None
        finally:
            self._drafts.cut(self.study._study_id, len(self._ids))

    def _draft(self, ask: Ask, point: Mapping[str, Any] | None, attempt: int) -> Proposal:
        """One proposal, as a trial of the copy."""
        if point is not None:
            self.study.enqueue_trial(dict(point))
        sampler = self.study.sampler = self.source(len(self._ids), attempt)
        with blaming(f"sampler {type(sampler).__name__}"):
            trial = self.study.ask()
        key, refused = None, None
        try:
            key = key_of(ask(trial))
        except Exception as error:  # a space may refuse a combination; a mistake in it shows here
            if _raised_by(sampler, error):
                with blaming(f"sampler {type(sampler).__name__}"):
                    raise
            refused = f"the space refused: {type(error).__name__}: {error}"
        made = self._drafts.get_trial(trial._trial_id)
        return Proposal(made.params, made.distributions, made.system_attrs, key, refused)

    def tell(self, row: FrozenTrial) -> None:
        """Let the sampler see the end of a trial of the journal."""
        row, trial_id = as_seen(row), self._ids[row.number]
        known = self._drafts.get_trial(trial_id)
        for key, value in row.system_attrs.items():  # an Optuna trial would propose anew
            if key not in known.system_attrs:
                self._drafts.set_trial_system_attr(trial_id, key, value)
        for key, value in self._metrics(row).items():
            self._drafts.set_trial_user_attr(trial_id, key, value)
        with _quiet():
            self.study.tell(known.number, row.values, state=row.state)


class _Row(FrozenTrial):
    """A trial of the copy. Its parts are replaced, never changed, so a shallow copy is as good."""

    def __deepcopy__(self, _: Any) -> "_Row":
        return copy.copy(self)


class _Drafts(InMemoryStorage):
    """A storage whose last trials can be taken back."""

    def cut(self, study_id: int, count: int) -> None:
        """Keep the first `count` trials."""
        with self._lock:
            trials = self._studies[study_id].trials
            for trial in trials[count:]:
                del self._trial_id_to_study_id_and_number[trial._trial_id]
            del trials[count:]
            self._max_trial_id = trials[-1]._trial_id if trials else -1
            waiting = self._prev_waiting_trial_number  # where to look for those that were enqueued
            waiting[study_id] = min(waiting[study_id], count)


def as_seen(row: FrozenTrial) -> FrozenTrial:
    """A row as the sampler is to see it: one that was out of the race with what it would have come
    to, as if it had been measured whole."""
    estimate = row.user_attrs.get("record", {}).get("estimate")
    if row.state != TrialState.PRUNED or not estimate:
        return row
    whole = copy.copy(row)
    whole.state, whole.values = TrialState.COMPLETE, estimate
    return whole


def _raised_by(sampler: BaseSampler, error: BaseException) -> bool:
    """Whether an error came out of the sampler, which the space's own calls run."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_locals.get("self") is sampler for frame, _ in frames)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
