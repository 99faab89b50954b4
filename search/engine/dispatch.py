"""What a launch has in hand while it runs: shared by the searcher, the driver and the screen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.trial import TrialState

from search.journal.journal import Journal
from search.journal.results import Result
from search.samplers.grid import exhausted, is_grid
from search.samplers.points import Ask
from search.study.schema import Budget
from trainables.core.errors import UserError, placed
from trainables.core.spec import Assignment
from trainables.stage import Facts

LIMITED = "trials repeated a known model, as many as budget.trials: from now on they count"
GIVEN_UP = 900.0  # seconds to wait for a node that has room at all
EXHAUSTED = "the space is exhausted: it has no further model"


class Watcher(Protocol):
    """Who is told how a launch goes: the screen, a log."""

    def phase(self, text: str) -> None:
        """What is being done now."""

    def begin(self, results: Sequence[Result]) -> None:
        """What earlier launches found, before anything else."""

    def ended(self, result: Result) -> None:
        """A trial's end."""

    def running(self, trials: Mapping[int, Mapping[str, Any]]) -> None:
        """The parameters of the trials that run now, by number."""


class Places(Protocol):
    """Where trials can run."""

    def slots(self) -> int:
        """How many at once, now."""

    def works(self, node: str) -> None:
        """Things went well on a node."""

    def strike(self, node: str) -> None:
        """A failure on a node was the node's own."""

    def left(self) -> bool:
        """Whether any node is left that can hold a trial."""

    def lack(self) -> UserError:
        """That none is."""

    def waiting(self) -> int:
        """Workers that there is no room for at the moment."""


class Nobody:
    """A watcher who does not look."""

    def phase(self, text: str) -> None: ...

    def begin(self, results: Sequence[Result]) -> None: ...

    def ended(self, result: Result) -> None: ...

    def running(self, trials: Mapping[int, Mapping[str, Any]]) -> None: ...


@dataclass
class Plan:
    """What the searcher needs of a launch."""

    journal: Journal
    budget: Budget
    seconds: Callable[[], float]  # how long the study ran, earlier launches included
    places: Places
    on_facts: Callable[[Facts], Ask]  # the baseline's facts -> how to run the space
    on_end: Callable[[int], None]  # a trial has ended
    on_tick: Callable[[], None] = lambda: None  # several times a second
    race: Callable[[], Any] = lambda: None  # what a trial runs against, now
    on_scores: Callable[[str, str], None] = lambda uid, text: None  # what items scored, from afar
    watcher: Watcher = field(default_factory=Nobody)
    naive: bool = False  # every shortcut off
    facts: Facts | None = None  # once there is a baseline
    ask: Ask | None = None
    live: dict[str, Assignment] = field(default_factory=dict)  # by Tune's trial id
    refusals: int = 0  # points in a row that the space refused
    exhausted: bool = False  # the sampler has nothing more to propose
    limited: bool = False  # as many trials as the budget has gave models that were known
    error: UserError | None = None  # why the study ends here

    @property
    def is_grid(self) -> bool:
        """Whether the sampler comes to an end by itself."""
        return self.journal.copy is not None and is_grid(self.journal.copy.study)

    @property
    def spent(self) -> bool:
        """Whether no new trial may start; that a space is exhausted is noted, as only we know."""
        journal = self.journal
        through = journal.copy is not None and exhausted(journal.copy.study)
        if not self.exhausted and (through or journal.exhausted):
            self.exhausted = True
            journal.note("exhausted", True)
            self.watcher.phase(EXHAUSTED)
        if journal.repeats == self.budget.trials and not self.limited:
            self.limited = True
            self.watcher.phase(f"warning: {journal.repeats} {LIMITED}")
        trials, seconds = len(journal.trials()) - 1, self.seconds()
        return self.budget.spent(trials, seconds, repeats=journal.repeats, exhausted=self.exhausted)

    @property
    def measured(self) -> bool:
        """Whether any candidate came to a result, in this launch or an earlier one."""
        return any(row.state == TrialState.COMPLETE for row in self.journal.trials()[1:])

    def ready(self, facts: Facts) -> None:
        """There is a baseline: from now on the space can be asked."""
        self.facts, self.ask = facts, self.on_facts(facts)
        self.watcher.phase("searching")

    def broken(self, why: object) -> None:
        """Note that no trial can run."""
        self.failed(UserError(f"study {self.journal.name}: no trial can run: {why}"))

    def failed(self, error: Exception) -> None:
        """End the study with this error; the first one counts."""
        if not isinstance(error, UserError):
            do = f"what was found is kept: rayduce resume {self.journal.name}"
            error = UserError(f"study {self.journal.name} stopped: {placed(error)}", do=do)
        if self.error is None:
            self.error = error
            self.watcher.phase("stopping; trials that run may end")

    def show_running(self) -> None:
        """Tell the watcher what runs now."""
        self.watcher.running({one.number: one.params for one in self.live.values()})
