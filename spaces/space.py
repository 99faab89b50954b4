"""What a space is: which points a search may propose, and the stages that a point means.

A space is a class whose fields are the ranges that a study's `[space]` table may override:

    class Mine(Space):
        high: Percent = 60

        def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
            return [Wanda(trial.suggest_int("wanda.percent", 0, self.high) / 100)]
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from trainables.stage import Bench, Facts, Stage

T = TypeVar("T")
Choices = Annotated[tuple[T, ...], Field(min_length=1)]  # what a categorical may be
Point: TypeAlias = dict[str, Any]  # parameter -> value; a set may be given as a list of its members


class Trial(Protocol):
    """What a space may ask: of Optuna's trial, or of what stands in for one."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Space(BaseModel, ABC):
    """Frozen plain data: the driver asks it with a live trial, a worker with a finished one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def survey(self, bench: Bench) -> dict[str, Any]:
        """What the baseline should measure for it, as plain data; arrives as `facts.survey`."""
        return {}

    def starts(self, facts: Facts) -> list[Point]:
        """Good points, to try before the sampler proposes any."""
        return []

    @abstractmethod
    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        """Ask for the parameters and make stages of them.

        Raises ValueError where a combination makes no sense, which is told as a failed trial.
        """


def choose(trial: Trial, name: str, choices: Sequence[T]) -> T:
    """One of some; asked for only where there is more than one."""
    found: T = choices[0]
    if len(choices) > 1:
        found = trial.suggest_categorical(name, list(choices))
    return found
