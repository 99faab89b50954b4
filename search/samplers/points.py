"""Points of a space: their parameters, what each may be, and the stages that they mean.

Two points that mean equal stages are one model, whatever their parameters: a set's count may cut
what a candidate adds, and a branch that is not taken asks for nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.study.stand_in import StandIn, fits
from spaces import sets

PHASE = "phase"  # in a trial's row: [phase, place in it], both from 0
Ask: TypeAlias = Callable[[Any], object]  # runs the space on a trial, or on what stands in for one
Params: TypeAlias = dict[str, Any]
T = TypeVar("T")
Fill: TypeAlias = Callable[[str, BaseDistribution], Any]  # what a parameter is that nobody gave

Shape: TypeAlias = tuple[dict[str, dict[int, str]], list[str]]  # sets, and all other parameters

REMEMBERED = 20_000  # points that a walker keeps, as searches look around the same ones


@dataclass(frozen=True)
class Point:
    """One point, as the space answered it.

    Attributes:
        params: by name, in the order they were asked for.
        asked: what each may be.
        units: the sets of 0/1 parameters: set -> number -> parameter.
        settings: the parameters that belong to no set.
        prices: what members of a set are thought to cost: set -> number -> price.
        stages: what it means, as plain data; None where the space returned no stages.
    """

    params: Params
    asked: Mapping[str, BaseDistribution]
    units: Mapping[str, Mapping[int, str]]
    settings: Sequence[str]
    prices: Mapping[str, Mapping[int, float]]
    stages: Sequence[Mapping[str, Any]] | None

    @cached_property
    def key(self) -> str | None:
        """The identity of its stages."""
        return None if self.stages is None else _digest(self.stages)

    @cached_property
    def members(self) -> dict[str, list[int]]:
        """Of each set the units that count: those that its stages name where the count cuts the
        rest."""
        return {group: self._members(group) for group in self.units}

    def _members(self, group: str) -> list[int]:
        candidates = [number for number, name in self.units[group].items() if self.params[name]]
        count = self.params.get(sets.count_of(group), len(candidates))
        if count >= len(candidates):
            return candidates
        named = (list(one) for one in _lists(self.stages) if len(one) == count)
        return next((one for one in named if set(one) <= set(candidates)), candidates[:count])

    def having(self, params: Params) -> "Point":
        """The same with other values."""
        return Point(params, self.asked, self.units, self.settings, self.prices, self.stages)

    @property
    def identity(self) -> str:
        """Its key, or its parameters where it has no stages."""
        return self.key or repr(self.params)


def plain(found: object) -> list[dict[str, Any]] | None:
    """What a space returned as plain data, but for stages that ask for nothing; None where it is no
    list of stages."""
    if not isinstance(found, list | tuple) or not all(hasattr(one, "to_dict") for one in found):
        return None
    return [one.to_dict() for one in found if not getattr(one, "idle", False)]


def key_of(found: object) -> str | None:
    """The identity of the stages that a space returned; None where it returned none."""
    stages = plain(found)
    return None if stages is None else _digest(stages)


def _digest(stages: Sequence[Mapping[str, Any]]) -> str:
    text = _ENCODER.encode(stages)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


_ENCODER = json.JSONEncoder(sort_keys=True, default=repr, check_circular=False)


def _lists(data: Any) -> Iterator[tuple[Any, ...]]:
    """All lists of whole numbers inside plain data."""
    if isinstance(data, dict):
        for value in data.values():
            yield from _lists(value)
    elif isinstance(data, list | tuple):
        if all(type(one) is int for one in data):
            yield tuple(data)
        else:
            for value in data:
                yield from _lists(value)


class Walker:
    """Runs a space on parameters in hand, quickly: a domain is made once, however often a space
    asks for it."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.domains: dict[tuple[Any, ...], BaseDistribution] = {}
        self.shapes: dict[tuple[Any, ...], Shape] = {}
        self._walked: dict[tuple[Any, ...], Any] = {}
        self._told: dict[int, tuple[Point, Any]] = {}  # by the identity of a point that is kept

    def told(self, point: Point, tell: Callable[[Point], T]) -> T:
        """What `tell` says of a point; always the same one, asked once as long as it is known."""
        if len(self._told) > REMEMBERED:
            self._told.clear()
        found = self._told.get(id(point))
        if found is None:
            found = self._told[id(point)] = (point, tell(point))
        said: T = found[1]
        return said

    def walk(self, params: Mapping[str, Any], fill: Fill) -> Point | None:
        """The point of these parameters; None where the space refuses it.

        Args:
            fill: answers what is asked for beyond the parameters, or out of their range.
        """
        given = tuple(params.items())
        known: Point | None = self._walked.get(given, _MISSING)
        if known is not _MISSING:
            return known
        trial = _Answers(params, fill, self.domains)
        point = self._run(trial)
        if not trial.filled:
            if len(self._walked) > REMEMBERED:
                self._walked.clear()
            self._walked[given] = point
        return point

    def _run(self, trial: "_Answers") -> Point | None:
        try:
            found = self.ask(trial)
        except (ValueError, optuna.TrialPruned):
            return None
        units, settings = self._shape(trial.asked)
        return Point(trial.params, trial.asked, units, settings, trial.prices, plain(found))

    def _shape(self, asked: Mapping[str, BaseDistribution]) -> "Shape":
        known = (*asked, *map(id, asked.values()))  # domains live as long as the walker
        if known not in self.shapes:
            units = sets.groups(name for name, one in asked.items() if _is_unit(one))
            tied = {name for names in units.values() for name in names.values()}
            tied |= set(map(sets.count_of, units))
            self.shapes[known] = (units, [name for name in asked if name not in tied])
        return self.shapes[known]


class _Answers(StandIn):
    def __init__(
        self, given: Mapping[str, Any], fill: Fill, domains: dict[tuple[Any, ...], BaseDistribution]
    ) -> None:
        self.given, self.fill, self.domains = given, fill, domains
        self.params: Params = {}
        self.asked: dict[str, BaseDistribution] = {}
        self.prices: dict[str, Mapping[int, float]] = {}
        self.filled = False

    def priced(self, name: str, price: Mapping[int, float]) -> None:
        self.prices[name] = price

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        domain, value = self._whole(low, high, step, log), self.given.get(name)
        if type(value) is int and low <= value <= high and (value - low) % step == 0:
            self.asked[name] = domain
            return self.params.setdefault(name, value)
        return self.answer(name, domain)

    def suggest_units(self, names: Sequence[str]) -> list[int]:
        """The 0/1 parameters of a set, all at once, as a space asks for them thousands of times."""
        given: list[Any] = list(map(self.given.get, names))
        domain = self._whole(0, 1, 1, False)
        if {*map(type, given)} != {int} or not {*given} <= {0, 1}:
            return [self._unit(name, domain) for name in names]
        self.params.update(zip(names, given, strict=True))
        self.asked.update(dict.fromkeys(names, domain))
        return given

    def _unit(self, name: str, domain: BaseDistribution) -> int:
        found: int = self.answer(name, domain) if name in self.given else self._filled(name, domain)
        return found

    def _whole(self, low: int, high: int, step: int, log: bool) -> BaseDistribution:
        key = (int, low, high, step, log)
        domain = self.domains.get(key)
        if domain is None:
            domain = self.domains[key] = IntDistribution(low, high, log, step)
        return domain

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        key = (float, low, high, step, log)
        if key not in self.domains:
            self.domains[key] = FloatDistribution(low, high, log, step)
        return self.answer(name, self.domains[key])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        key = (str, *((type(one), repr(one)) for one in choices))
        if key not in self.domains:
            self.domains[key] = CategoricalDistribution(choices)
        return self.answer(name, self.domains[key])

    def answer(self, name: str, asked: BaseDistribution) -> Any:
        given = self.given.get(name, _MISSING)
        if name in self.params or given is _MISSING or not fits(given, asked):
            return self._filled(name, asked)
        self.params[name], self.asked[name] = given, asked
        return given

    def _filled(self, name: str, asked: BaseDistribution) -> Any:
        """What it was before, else what nobody gave."""
        if name not in self.params:
            self.filled = True
            self.params[name], self.asked[name] = self.fill(name, asked), asked
        return self.params[name]


_MISSING = object()


def _is_unit(asked: BaseDistribution) -> bool:
    return isinstance(asked, IntDistribution) and (asked.low, asked.high) == (0, 1)
