"""What is to be done, and by whom it is watched: shared by the searcher, the driver, the screen."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

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
REFUSALS = 20  # points in a row, by a space that may refuse some: then it refuses all
Record = Mapping[str, Any]
Tell: TypeAlias = Callable[[str], None]


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
    """A watcher who does not look, and at most passes on what is being done."""

    def __init__(self, tell: Tell = lambda text: None) -> None:
        self.tell = tell

    def phase(self, text: str) -> None:
        self.tell(text)

    def begin(self, results: Sequence[Result]) -> None: ...

    def ended(self, result: Result) -> None: ...

    def running(self, trials: Mapping[int, Mapping[str, Any]]) -> None: ...


class Work(ABC):
    """What workers do: what is next, and what came of it. Number 0 comes alone, as all else depends
    on it.

    Attributes:
        live: what is being done, by Tune's trial id.
        error: why the work ends here.
        first: what number 0 is called.
    """

    places: Places
    watcher: Watcher
    live: dict[str, Assignment]
    error: UserError | None
    first = "the baseline"

    @property
    @abstractmethod
    def name(self) -> str:
        """The study's."""

    @property
    def minutes(self) -> float | None:
        """That any of it may take."""
        return None

    @property
    def most(self) -> int | None:
        """How many workers it can use, where it knows."""
        return None

    @property
    @abstractmethod
    def begun(self) -> bool:
        """Whether number 0 came to its end."""

    @property
    @abstractmethod
    def measured(self) -> bool:
        """Whether anything after number 0 came to a result, in this launch or an earlier one."""

    @abstractmethod
    def next(self) -> Assignment | None:
        """What to do next; None where nothing is, unless what is being done comes back."""

    @abstractmethod
    def context(self, given: Assignment | None) -> dict[str, Any]:
        """What its worker has to know besides."""

    @abstractmethod
    def settle(self, given: Assignment, record: Record) -> None:
        """It came to its end, as the record has it."""

    @abstractmethod
    def stop(self, given: Assignment, progress: Record) -> None:
        """A scheduler stopped it early."""

    @abstractmethod
    def owe(self, given: Assignment) -> None:
        """It has to be done again, under its number: its worker died."""

    @abstractmethod
    def tick(self) -> None:
        """Several times a second."""

    def broken(self, why: object) -> None:
        """Note that nothing can be done."""
        self.failed(UserError(f"study {self.name}: no trial can run: {why}"))

    def failed(self, error: Exception) -> None:
        """End the work with this error; the first one counts."""
        if not isinstance(error, UserError):
            do = f"what was found is kept: rayduce resume {self.name}"
            error = UserError(f"study {self.name} stopped: {placed(error)}", do=do)
        if self.error is None:
            self.error = error
            self.watcher.phase("stopping; trials that run may end")

    def show_running(self) -> None:
        """Tell the watcher what runs now."""
        self.watcher.running({one.number: one.params for one in self.live.values()})


@dataclass
class Plan(Work):
    """A study's trials, as its journal has them."""

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
    live: dict[str, Assignment] = field(default_factory=dict)
    refusals: int = 0  # points in a row that the space refused
    exhausted: bool = False  # the sampler has nothing more to propose
    limited: bool = False  # as many trials as the budget has gave models that were known
    error: UserError | None = None

    @property
    def name(self) -> str:
        return self.journal.name

    @property
    def minutes(self) -> float | None:
        return self.budget.minutes_per_trial

    @property
    def most(self) -> int | None:
        return self.budget.trials

    @property
    def is_grid(self) -> bool:
        """Whether the sampler comes to an end by itself."""
        return self.journal.copy is not None and is_grid(self.journal.copy.study)

    @property
    def begun(self) -> bool:
        return self.ask is not None

    @property
    def measured(self) -> bool:
        return any(row.state == TrialState.COMPLETE for row in self.journal.trials()[1:])

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

    def next(self) -> Assignment | None:
        """The next trial the space accepts, while the budget lasts."""
        journal = self.journal
        while self.error is None and (journal.owed or not self.spent):
            if (given := journal.hand_out(self.ask)) is not None:
                self.refusals = 0
                if not self.begun:
                    self.watcher.phase("measuring the untouched model")
                return given
            if not journal.exhausted:
                self._refused(len(journal.trials()) - 1)
        return None

    def _refused(self, number: int) -> None:
        self.on_end(number)
        self.refusals += 1
        if self.refusals == REFUSALS and not self.is_grid:  # a grid has an end
            why = self.journal.trials()[number].user_attrs["record"]["reason"]
            self.broken(f"{REFUSALS} points in a row came to nothing, the last as {why}")

    def context(self, given: Assignment | None) -> dict[str, Any]:
        race = self.race() if given and given.number else None
        return {"facts": given and self.facts, "race": race}

    def settle(self, given: Assignment, record: Record) -> None:
        if text := record.get("scores"):
            self.on_scores(given.uid, text)
        self.journal.settle(given.number, record)
        self.on_end(given.number)
        if given.number == 0:
            self.ready(Facts.read(record["facts"]))

    def stop(self, given: Assignment, progress: Record) -> None:
        self.journal.stop(given.number, progress)
        self.on_end(given.number)

    def owe(self, given: Assignment) -> None:
        self.journal.owe(given.number)

    def tick(self) -> None:
        self.on_tick()

    def ready(self, facts: Facts) -> None:
        """There is a baseline: from now on the space can be asked."""
        self.facts, self.ask = facts, self.on_facts(facts)
        self.watcher.phase("searching")
