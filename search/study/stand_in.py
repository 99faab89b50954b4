"""What a space may be asked with instead of a trial: one method gives all the answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


class StandIn(ABC):
    """A trial whose answers come from somewhere else than a sampler."""

    @abstractmethod
    def answer(self, name: str, asked: BaseDistribution) -> Any:
        """What the space is told."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        return self.answer(name, IntDistribution(low, high, log, step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        return self.answer(name, FloatDistribution(low, high, log, step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.answer(name, CategoricalDistribution(choices))

    def set_user_attr(self, key: str, value: Any) -> None:  # noqa: B027
        """Nothing: no trial is kept."""

    def priced(self, name: str, price: Mapping[int, float]) -> None:  # noqa: B027
        """What a set's members are thought to cost, before anything is measured."""


def default(asked: BaseDistribution) -> Any:
    """The lowest value, or the first choice."""
    if isinstance(asked, CategoricalDistribution):
        return asked.choices[0]
    assert isinstance(asked, IntDistribution | FloatDistribution)
    return asked.low


def fits(value: Any, asked: BaseDistribution) -> bool:
    """Whether a value written by hand is an answer."""
    if isinstance(asked, CategoricalDistribution):
        return value in asked.choices
    if isinstance(asked, IntDistribution):
        inside = type(value) is int and asked.low <= value <= asked.high
        return inside and (value - asked.low) % asked.step == 0
    assert isinstance(asked, FloatDistribution)
    return type(value) in (int, float) and asked.low <= value <= asked.high


def said(asked: BaseDistribution) -> str:
    """What is asked for, in words: `a whole number from 0 to 50 in steps of 10`."""
    if isinstance(asked, CategoricalDistribution):
        return ", ".join(map(str, asked.choices))
    if isinstance(asked, IntDistribution):
        words, steps = f"a whole number from {asked.low} to {asked.high}", asked.step != 1
    else:
        assert isinstance(asked, FloatDistribution)
        words, steps = f"a number from {asked.low:g} to {asked.high:g}", asked.step is not None
    words += f" in steps of {asked.step:g}" if steps else ""
    return f"{words}, by its logarithm" if asked.log else words
