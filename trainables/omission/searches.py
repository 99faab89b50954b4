"""Searches over omission sets: which blocks (or parts of blocks) can go.

Plain functions of a `score`, which takes omission sets and gives their losses, all measured on
the same batches (`evaluator.PrefixEvaluator`); where only what beats a loss matters, that loss,
too. A unit is a number; a set is a tuple of them.
"""

import ast
import csv
import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias

from trainables.core.errors import PlanError
from trainables.core.types import Progress
from trainables.stage import drain

Omit: TypeAlias = tuple[int, ...]
Score: TypeAlias = Callable[[Sequence[Omit]], Sequence[float]]
Beating: TypeAlias = Callable[[Sequence[Omit], float], Sequence[float]]  # sets, the loss to beat
TRIES = 50  # for each offspring, to find one that is new


@dataclass(frozen=True)
class Found:
    """A nested family of omission sets: the first j units are the set of size j."""

    order: Omit  # in the order of removal
    losses: tuple[float, ...]  # after each removal

    def at(self, budget: int) -> Omit:
        """The set of one size."""
        return self.order[:budget]


def greedy(units: int, budget: int, score: Score, *, fixed: Collection[int] = ()) -> Found:
    """Remove, one at a time, the unit whose omission costs least (SLEB).

    The first and the last of the units still there always stay; of equal losses, the first wins.
    """
    return drain(greedy_steps(units, budget, score, fixed=fixed))


def greedy_steps(
    units: int, budget: int, score: Score, *, fixed: Collection[int] = ()
) -> Generator[Progress, None, Found]:
    """The same, telling of every removal."""
    order: list[int] = []
    losses: list[float] = []
    for _ in range(budget):
        candidates = open_positions(units, order, fixed)
        if not candidates:
            raise PlanError(f"greedy: only {len(order)} of {budget} units can be removed")
        found = score([(*order, unit) for unit in candidates])
        best = argmin(found)
        order.append(candidates[best])
        losses.append(found[best])
        yield {"removed": float(len(order)), "loss": losses[-1]}
    return Found(tuple(order), tuple(losses))


def open_positions(units: int, gone: Collection[int], fixed: Collection[int] = ()) -> list[int]:
    """The units that greedy may remove next."""
    alive = [unit for unit in range(units) if unit not in gone]
    return [unit for unit in alive[1:-1] if unit not in fixed]


def argmin(losses: Sequence[float]) -> int:
    """The first smallest; losses that are no numbers never win. PlanError if none is one."""
    finite = [index for index, loss in enumerate(losses) if math.isfinite(loss)]
    if not finite:
        raise PlanError("every candidate's loss is infinite: use bfloat16 or float32 weights")
    return min(finite, key=lambda index: losses[index])


def lowest(importance: Sequence[float], budget: int, *, fixed: Collection[int] = ()) -> Omit:
    """The least important units, least important first."""
    free = [unit for unit in range(len(importance)) if unit not in fixed]
    if budget > len(free):
        raise PlanError(f"{budget} units to remove, {len(free)} free")
    return tuple(sorted(free, key=lambda unit: importance[unit])[:budget])


def window(angles: Sequence[float], size: int, *, fixed: Collection[int] = ()) -> Omit:
    """The flattest window's blocks, of those windows that hold no fixed one."""
    runs = [range(start, start + size) for start in range(len(angles))]
    free = [run for run in runs if not set(run) & set(fixed)]
    if not free:
        raise PlanError(f"no window of {size} blocks is free of {sorted(fixed)}, which must stay")
    return tuple(free[argmin([angles[run.start] for run in free])])


def switch(
    parent: Collection[int], groups: Sequence[Sequence[int]], rng: Random, switches: int
) -> Omit:
    """An offspring: `switches` omitted units come back, as many others of their group go, so that
    every group keeps its count (EvoPress, whose groups are attention and FFN)."""
    gone, alive = set(parent), {unit for group in groups for unit in group} - set(parent)
    child = set(parent)
    for _ in range(switches):
        pairs = [(gone & set(group), alive & set(group)) for group in groups]
        usable = [pair for pair in pairs if all(pair)]
        if not usable:
            break
        returning, leaving = (rng.choice(sorted(side)) for side in rng.choice(usable))
        gone, alive = gone - {returning}, alive - {leaving}
        child = child - {returning} | {leaving}
    return tuple(sorted(child))


def switches(rng: Random) -> int:
    """How many levels to switch: 1 to 3, fewer more often, as in EvoPress."""
    return min(rng.randint(1, 3), rng.randint(1, 3))


def brood(parent: Omit, groups: Sequence[Sequence[int]], rng: Random, offspring: int) -> list[Omit]:
    """As many offspring, no two alike and none like the parent; fewer where there are no more."""
    children: dict[Omit, None] = {}
    for _ in range(TRIES * offspring):
        if len(children) == offspring:
            break
        child = switch(parent, groups, rng, switches(rng))
        if child != parent:
            children[child] = None
    return list(children)


def evolve(
    start: Omit,
    groups: Sequence[Sequence[int]],
    score: Beating,
    *,
    generations: int,
    offspring: int,
    seed: int = 0,
    until: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Omit, float]]:
    """Level-switch search, (1 + offspring): yields the best so far after each generation.

    Args:
        groups: the units that may go, by kind; a set keeps its count of every kind.
        score: is told the best loss so far; any that is above it may be given as infinity.
        until: asked before each generation; ends the search early.
    """
    rng = Random(seed)
    parent = tuple(sorted(start))
    best = score([parent], math.inf)[0]
    yield parent, best
    for _ in range(generations):
        children = brood(parent, groups, rng, offspring)
        if until() or not children:
            return
        losses = score(children, best)
        chosen = argmin([*losses, best])
        if chosen < len(children):
            parent, best = children[chosen], losses[chosen]
        yield parent, best


def diverse(orders: Mapping[str, Omit], wanted: int) -> dict[str, Omit]:
    """Up to `wanted` sets, no two alike: the first, then always the one least like those chosen.

    Args:
        orders: name -> set, best first; of equal sets the first keeps its name.
    """
    unique: dict[frozenset[int], str] = {}
    for name, order in orders.items():
        unique.setdefault(frozenset(order), name)
    chosen: list[frozenset[int]] = []
    rest = list(unique)
    while rest and len(chosen) < wanted:
        pick = max(rest, key=lambda one: min((_distance(one, c) for c in chosen), default=0.0))
        chosen.append(pick)
        rest.remove(pick)
    return {unique[one]: orders[unique[one]] for one in chosen}


def _distance(one: frozenset[int], other: frozenset[int]) -> float:
    return 1 - len(one & other) / max(1, len(one | other))


def write_sets(path: Path, sets: Mapping[str, Omit]) -> None:
    """As PuDDing's CSV: `Set,idx,`, each set in its order of removal, then where it comes from."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["Set", "idx", ""])
        rows.writerows(
            [list(order), index, name] for index, (name, order) in enumerate(sets.items())
        )


def read_sets(path: Path) -> dict[str, Omit]:
    """The sets of a CSV in PuDDing's format, by their last column."""
    sets: dict[str, Omit] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            try:
                order = tuple(int(unit) for unit in ast.literal_eval(row["Set"]))
            except (KeyError, ValueError, SyntaxError, TypeError) as error:
                raise PlanError(f"{path}, row {number + 1}: {row} holds no list in Set") from error
            name = row.get("") or str(number)
            sets[name if name not in sets else f"{name}-{number}"] = order
    return sets


# PuDDing's ten sets for Llama-3.1-8B, 7 of 32 blocks: known-good points to start from.
PUBLISHED: tuple[Omit, ...] = (
    (10, 25, 11, 26, 12, 9, 19),
    (26, 30, 24, 29, 23, 21, 18),
    (26, 25, 24, 3, 22, 18, 29),
    (27, 3, 23, 24, 26, 20, 22),
    (3, 25, 24, 10, 11, 26, 19),
    (3, 26, 23, 25, 28, 19, 22),
    (2, 21, 24, 15, 20, 27, 29),
    (2, 21, 27, 20, 15, 7, 28),
    (10, 9, 26, 25, 24, 8, 19),
    (10, 9, 26, 19, 18, 8, 25),
)
