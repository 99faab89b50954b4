"""Points worth a thought: small steps from good ones, mixtures of two, some from anywhere."""

from collections.abc import Collection, Iterator, Sequence
from random import Random

from search.samplers.bayesian.features import Described, describe
from search.samplers.points import Params, Point, Walker
from search.samplers.steps import beside, draw, most, resized

FAR = 0.15  # of the steps that change a parameter, how many go anywhere
TRIES = 4  # to find a point that is not known, per point that is wanted


class Pool:
    """New points of a space, none of them known, none twice."""

    def __init__(self, walker: Walker, known: Collection[str], rng: Random) -> None:
        self.walker, self.known, self.rng = walker, known, rng
        self.points: list[Point] = []
        self.described: list[Described] = []
        self._keys: set[str] = set()

    def add(self, proposals: Iterator[Params], count: int) -> None:
        """Add up to `count` points, of those proposed."""
        wanted = len(self.points) + count
        for _, params in zip(range(TRIES * count), proposals, strict=False):
            point = self.walker.walk(params, lambda _, asked: draw(self.rng, asked))
            if point is None or (key := point.identity) in self._keys:
                continue
            if key not in self.known:
                self._keys.add(key)
                self.points.append(point)
                self.described.append(self.walker.told(point, describe))
                if len(self.points) == wanted:
                    return

    def steps(self, parents: Sequence[Point]) -> Iterator[Params]:
        """One to three steps from a parent, mostly one."""
        while parents:
            parent = self.rng.choice(parents)
            further = self.rng.choice((0, 0, 0, 1, 1, 2))
            params = step(parent, self.rng)
            for _ in range(further):
                params = step(parent.having(params), self.rng)
            yield params

    def mixtures(self, parents: Sequence[Point]) -> Iterator[Params]:
        """Each parameter of one or the other of two parents; a set's members likewise."""
        while len(parents) > 1:
            one, other = self.rng.sample(parents, 2)
            yield mixture(one, other, self.rng)

    def anywhere(self) -> Iterator[Params]:
        """Points at random: nothing is given."""
        while True:
            yield {}


def step(point: Point, rng: Random) -> Params:
    """A small step in one set or one parameter."""
    choices = [*point.units, *point.units, *point.settings]
    if not choices:
        return dict(point.params)
    chosen = rng.choice(choices)
    if chosen in point.units:
        return _changed_set(point, chosen, rng)
    asked, value = point.asked[chosen], point.params[chosen]
    near = [] if rng.random() < FAR else beside(asked, value, 10 ** -rng.uniform(0.7, 2.5))
    return point.params | {chosen: rng.choice(near) if near else draw(rng, asked)}


def _changed_set(point: Point, group: str, rng: Random) -> Params:
    """A unit switched with another, added or given back."""
    inside, units = point.members[group], point.units[group]
    outside, room = len(inside) < len(units), len(inside) < most(point, group)
    kinds = ["switch"] * 2 * bool(inside and outside) + ["less"] * bool(inside)
    kinds += ["more"] * (outside and room)
    if not kinds:
        return dict(point.params)
    kind = rng.choice(kinds)
    left = [*inside]
    if kind != "more":
        left.remove(rng.choice(inside))
    if kind != "less":
        held = {*inside}
        left.append(rng.choice([number for number in units if number not in held]))
    return resized(point.params, units, group, left)


def mixture(one: Point, other: Point, rng: Random) -> Params:
    """A point between two, of a size between theirs."""
    params = {
        name: other.params[name] if name in other.params and rng.random() < 0.5 else value
        for name, value in one.params.items()
    }
    for group in sorted(one.units.keys() & other.units.keys()):
        mine, yours = one.members[group], other.members[group]
        size = rng.randint(*sorted((len(mine), len(yours))))
        units, held = one.units[group], {*yours}
        both = [number for number in mine if number in held]
        rest = sorted(number for number in held.symmetric_difference(mine) if number in units)
        chosen = [*both, *rng.sample(rest, min(len(rest), max(0, size - len(both))))]
        params = resized(params, units, group, chosen)
    return params
