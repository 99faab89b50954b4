"""Stage 4 of a routing study: every way of choosing a set, judged on the same held-out items.

Some ways know no more than a served model would; the others are marks to hold them against, as they
know the items' tasks or their answers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.core.bootstrap import drawn
from trainables.core.pictures import Bars, Heatmap
from trainables.core.scores import ItemScores
from trainables.routing.answers import Answers, Floats, Rows, best_set, by_task, taken
from trainables.routing.spec import (
    CHANCE,
    DENSE,
    KEPT,
    LIKELY,
    MAJORITY,
    ROUTER,
    SERVED,
    STATIC,
)

TAUGHT, CEILING = "best set of each task, by training", "best set of each task, in hindsight"
HINDSIGHT = "best static set, in hindsight"
RANDOM, ORACLE = "random set", "oracle over sets"  # all that know what no server does
LEVEL = (0.025, 0.975)
Row = dict[str, float]


@dataclass(frozen=True, eq=False)
class Way:
    """A way of choosing.

    Attributes:
        chosen: [items] sets; None where it is none of them.
        right: [items] the share of its answers that is right.
    """

    name: str
    chosen: Rows | None
    right: Floats


def ways(taught: Answers, held: Answers, promised: Floats, kept: Rows, dense: Floats) -> list[Way]:
    """All of them.

    Args:
        promised: [items, sets] by the router.
        kept: [items] its choices with the fallback.
        dense: [items] whether the dense model is right.
    """
    every = np.full(len(held), 1)
    best = np.bincount(taught.likelihood.argmax(1), minlength=taught.sets)
    chosen = {
        KEPT: kept,
        ROUTER: promised.argmax(1),
        STATIC: every * best_set(taught),
        LIKELY: every * best_set(taught, "likelihood"),
        CHANCE: every * best_set(taught, "probability"),
        MAJORITY: every * int(best.argmax()),
        TAUGHT: _of_tasks(taught, held),
        CEILING: _of_tasks(held, held),
        HINDSIGHT: every * best_set(held),
    }
    found = [Way(name, sets, taken(held.right, sets)) for name, sets in chosen.items()]
    ends = [(RANDOM, held.right.mean(1)), (ORACLE, held.right.max(1))]
    return [Way(DENSE, None, dense), *found, *(Way(name, None, right) for name, right in ends)]


def _of_tasks(known: Answers, held: Answers) -> Rows:
    """For each item the set that is best on what is known of its task; on all, of others."""
    seen = {task: best_set(known.take(known.tasks == task)) for task in np.unique(known.tasks)}
    other = best_set(known)
    return np.array([seen.get(task, other) for task in held.tasks])


def judge(found: Sequence[Way], held: Answers, active: Callable[[Way], float]) -> dict[str, Row]:
    """A row for each way: `accuracy`, `low` and `high` of it, `accuracy/TASK`; `active_parameters`;
    of those that choose a set the right answer's `likelihood` and `probability`, and the `regret`
    of the latter; and of those that are served `against/OTHER`, `/low` and `/high`: how much more
    accurate they are than a static set, on the same draws of the items of every task.
    """
    draws = {way.name: _draws(way.right, held) for way in found}
    return {way.name: dict(_row(way, found, held, draws, active)) for way in found}


def _row(
    way: Way,
    found: Sequence[Way],
    held: Answers,
    draws: Mapping[str, Floats],
    active: Callable[[Way], float],
) -> Iterator[tuple[str, float]]:
    yield "accuracy", float(by_task(way.right, held.tasks))
    yield from zip(("low", "high"), _between(draws[way.name]), strict=True)
    for task in np.unique(held.tasks):
        yield f"accuracy/{task}", float(way.right[held.tasks == task].mean())
    yield "active_parameters", active(way)
    if way.chosen is not None:
        chance = taken(held.probability, way.chosen)
        yield "likelihood", float(by_task(taken(held.likelihood, way.chosen), held.tasks))
        yield "probability", float(by_task(chance, held.tasks))
        yield "regret", float(by_task(held.probability.max(1) - chance, held.tasks))
    for other in found if way.name in SERVED else ():
        if short := {STATIC: "static", HINDSIGHT: "hindsight"}.get(other.name):
            yield f"against/{short}", float(by_task(way.right - other.right, held.tasks))
            between = _between(draws[way.name] - draws[other.name])
            yield from zip((f"against/{short}/low", f"against/{short}/high"), between, strict=True)


def _draws(right: Floats, held: Answers) -> Floats:
    """[draws] the mean over tasks, each task's items drawn by themselves."""
    tasks = np.unique(held.tasks)
    each = [
        drawn(ItemScores("mean", {"value": right[held.tasks == task]}), seed=number)
        for number, task in enumerate(tasks)
    ]
    found: Floats = np.mean(each, axis=0)
    return found


def _between(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, LEVEL)
    return float(low), float(high)


def shares(way: Way, held: Answers) -> dict[str, dict[str, float]]:
    """Which prompts go where: task -> set -> share of its items."""
    assert way.chosen is not None
    found: dict[str, dict[str, float]] = {}
    for task in np.unique(held.tasks):
        sets, counts = np.unique(way.chosen[held.tasks == task], return_counts=True)
        found[str(task)] = {
            str(one): float(n / counts.sum()) for one, n in zip(sets, counts, strict=True)
        }
    return found


def verdict(rows: Mapping[str, Row], budget: int) -> str:
    """In words."""
    kept, static = rows[KEPT], rows[STATIC]
    low, high = kept["against/static/low"], kept["against/static/high"]
    ceiling, best = rows[CEILING]["accuracy"], rows[HINDSIGHT]["accuracy"]
    return (
        f"{budget} blocks omitted: router with fallback {kept['accuracy']:.2%}, best static set by "
        f"training {static['accuracy']:.2%}: {kept['against/static']:+.2%} [{low:+.2%}, {high:+.2%}"
        f"]; in hindsight the best static set has {best:.2%}, the best of each task {ceiling:.2%}"
    )


# -- as a table ---------------------------------------------------------------------------------


def table(rows: Mapping[str, Row], title: str) -> dict[str, Any]:
    """The rows as plain words, for whoever prints them."""
    tasks = [name for name in rows[DENSE] if name.startswith("accuracy/")]
    heads = ["choice of the set", *(one.partition("/")[2] for one in tasks), "mean", "95 %"]
    heads += ["against static", "regret", "active parameters"]
    return {"title": title, "heads": heads, "rows": [_words(*one, tasks) for one in rows.items()]}


def _words(name: str, row: Row, tasks: Sequence[str]) -> list[str]:
    words = [name, *(f"{row[one]:.1%}" for one in [*tasks, "accuracy"])]
    words.append(f"{row['low']:.1%} to {row['high']:.1%}")
    if "against/static" in row:
        parts = [row[f"against/static{end}"] * 100 for end in ("", "/low", "/high")]
        words.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*parts))
    else:
        words.append("")
    return [*words, f"{row['regret']:.3f}" if "regret" in row else "", _millions(row)]


def _millions(row: Row) -> str:
    value = row["active_parameters"]
    return f"{value / 1e6:.4g}M" if np.isfinite(value) else ""


def shares_table(found: Mapping[str, Mapping[str, float]], names: Sequence[str], title: str) -> Any:
    """Where prompts go."""
    used = sorted({int(one) for row in found.values() for one in row})
    rows = [[t, *(f"{row.get(str(s), 0):.0%}" for s in used)] for t, row in found.items()]
    return {"title": title, "heads": ["task", *(names[s] for s in used)], "rows": rows}


# -- what else there is to know -------------------------------------------------------------------


def harness_records(
    task: str, under: Sequence[Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """A harness task's answers under each set as records that `Answers` reads, for each of its
    scores: of two choices the right one is likelier where the score is 1."""
    found = []
    for score in ("acc", "acc_norm"):
        for number, one in enumerate(zip(*under, strict=True)):
            if score in one[0]:
                right = [float(each[score]) for each in one]
                name = {"item": f"{task}/{score}/{number}", "task": f"{task}/{score}"}
                judged = [[value, 1 - value] for value in right]
                more = {"prompt": one[0]["prompt"], "answer": 0, "likelihood": right}
                found.append({**name, **more, "judged": judged})
    return found


def speed(timing: Mapping[str, float]) -> Row:
    """Speed-ups with the router's time included, and weights beside the dense model's."""
    found = {
        f"speed/{part}": timing[f"dense_{part}"] / (timing["router"] + timing[f"pruned_{part}"])
        for part in ("prefill", "generation")
    }
    return found | {
        "speed/router_share": timing["router"] / (timing["router"] + timing["pruned_prefill"]),
        "bytes/resident": timing["dense_bytes"] + timing["router_bytes"],
        "bytes/active": timing["pruned_bytes"] + timing["router_bytes"],
        "bytes/dense": timing["dense_bytes"],
    }


def picture(sets: Sequence[tuple[str, Sequence[int]]], blocks: int) -> Heatmap:
    """The sets over the blocks: when each block goes, the first darkest."""
    most = max(len(omit) for _, omit in sets)
    values = [
        [float(most - omit.index(block)) if block in omit else 0.0 for block in range(blocks)]
        for omit in (list(one) for _, one in sets)
    ]
    return Heatmap("omission sets", values, label="how early it goes", axis="set (across: block)")


def course(what: Mapping[str, Any], found: Mapping[str, Any]) -> Bars:
    """A greedy search: the loss after each removal."""
    title = f"{what['task']}, {what['loss']}: {' '.join(map(str, found['order']))}"
    return Bars(title, found["losses"], label="loss", axis="blocks removed, less one")
