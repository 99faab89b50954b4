"""What a launch has in hand while it runs: shared by the searcher, the driver and the screen."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna

from search.journal.journal import Journal
from trainables.core.errors import UserError
from trainables.core.spec import Assignment

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
    live: dict[str, Assignment] = field(default_factory=dict)  # by Tune's trial id
    warming: set[str] = field(default_factory=set)  # Tune's ids of workers that start up only
    tries: dict[int, int] = field(default_factory=dict)  # by trial: how many workers died of it
    deaths: int = 0  # trials in a row whose workers died
    cold: int = field(init=False)  # workers still to be started beside the baseline
    error: UserError | None = None  # why no trial of this study can run

    def __post_init__(self) -> None:
        self.cold = min(self.workers, self.trials or self.workers) - 1

    def broken(self, why: object) -> None:
        """Note that no trial can run."""
        self.error = UserError(f"study {self.journal.name}: no trial can run: {why}")
