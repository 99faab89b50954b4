"""The sampler's copy of the journal: an Optuna study in memory, in which proposals are worked out.

It leaves out the baseline, which has no parameters, and the records, which are large.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from search.errors import blaming

Ask = Callable[[optuna.Trial], object]  # runs the space on a trial


class SamplerCopy:
    """What a sampler sees.

    Attributes:
        study: the trials in memory.
    """

    def __init__(self, sampler: BaseSampler, directions: list[StudyDirection]) -> None:
        with _quiet():
            self.study = optuna.create_study(sampler=sampler, directions=directions)
        self._ids: dict[int, int] = {}  # by the number in the journal

    def add(self, row: FrozenTrial) -> None:
        """Copy a row of the journal."""
        light = create_trial(
            state=row.state,
            params=row.params,
            distributions=row.distributions,
            values=row.values,
            system_attrs=row.system_attrs,
            intermediate_values=row.intermediate_values,
        )
        light.datetime_start = row.datetime_start
        light.datetime_complete = row.datetime_complete
        storage = self.study._storage
        self._ids[row.number] = storage.create_new_trial(self.study._study_id, light)

    def propose(
        self, ask: Ask, point: Mapping[str, Any] | None = None
    ) -> tuple[FrozenTrial, str | None]:
        """A new trial, and why the space refused it, if it did.

        Args:
            ask: runs the space on a trial.
            point: what to propose; None leaves it to the sampler.
        """
        if point is not None:
            self.study.enqueue_trial(dict(point))
        sampler, refused = self.study.sampler, None
        with blaming(f"sampler {type(sampler).__name__}"):
            trial = self.study.ask()
        try:
            ask(trial)
        except Exception as error:  # a space may refuse a combination; a mistake in it shows here
            if _raised_by(sampler, error):
                with blaming(f"sampler {type(sampler).__name__}"):
                    raise
            refused = f"the space refused: {type(error).__name__}: {error}"
        return self.study._storage.get_trial(trial._trial_id), refused

    def number(self, proposed: FrozenTrial, number: int) -> None:
        """Remember under which number the journal has a proposal."""
        self._ids[number] = proposed._trial_id

    def tell(self, row: FrozenTrial) -> None:
        """Let the sampler see the end of a trial of the journal."""
        with _quiet():
            trial = optuna.Trial(self.study, self._ids[row.number])
            for key, value in row.constraints.items():
                trial.set_constraint(key, value)
            self.study.tell(trial, row.values, state=row.state)


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
