"""How good a front comes of how many measured models: Rayduce's default against what else proposes.

    python -m benchmarks.search_quality [--seeds 8] [--from 8] [--family NAME ...] [--budget 100]
    python -m benchmarks.search_quality --real [--to runs/search-quality]
    python -m benchmarks.search_quality --smollm2
    python -m benchmarks.search_quality --known 1000

The first searches made-up problems of omission and Wanda (benchmarks.synthetic), whose true fronts
are known exactly; the second a real space that is enumerated whole first, once (some minutes):
every subset of MiniLM's six blocks but the whole, at six sparsities, on BBC news; the third 60
trials of omission and Wanda on SmolLM2-135M, against all that any of them found (an hour; what was
measured is kept, so that it can be stopped and goes on); the fourth how long a proposal takes, and
telling what came of it, where so many trials are known.

Ours go through the journal, as a launch does. `plain` are Optuna's samplers alone, with the same
starting points and constraints, which measure again what they propose again. Greedy takes the step
that costs least per parameter, of all there are. Shares are of the true hypervolume under the
constraint. The last line is JSON; in it `equal` says whether a search that was interrupted gave the
same trials as one that was not, with every seed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FixedTrial, TrialState
from sqlalchemy import StaticPool

from benchmarks.synthetic import FAMILIES, Problem, hypervolume
from search.journal.journal import DIRECTIONS, Journal
from search.samplers.build import sampler_source
from search.samplers.points import Walker, key_of
from search.samplers.steps import steps
from search.study.constraints import parse_constraint
from search.study.schema import SamplerSpec
from search.study.stand_in import default
from search.study.starting_points import read_point

AFTER = (24, 50, 100)
OURS = {"default": "auto", "tpe": "tpe", "random": "random", "level-switch": "level-switch"}
PLAIN: dict[str, Callable[[int], BaseSampler]] = {
    "plain TPE": lambda seed: TPESampler(seed=seed),
    "plain NSGA-II": lambda seed: NSGAIISampler(seed=seed, population_size=20),
    "plain random": lambda seed: RandomSampler(seed=seed),
}
INTERRUPTED = (5, 13, 14)  # after how many trials the checked search is interrupted
CHECKED = 24  # trials of which it has so many
TIMED = 60  # proposals that are timed


@dataclass(frozen=True)
class Task:
    """What is searched.

    Attributes:
        limit: of the first objective.
        corner: beyond which nothing counts, less being better.
        truth: all scores there are, or the best of them, less being better.
        measure: stages -> metrics; None where the trial fails.
    """

    ask: Callable[[Any], Any]
    measure: Callable[[Any], Mapping[str, float] | None]
    objectives: Mapping[str, str]
    limit: str
    baseline: Mapping[str, float]
    starts: Sequence[Mapping[str, Any]]
    corner: tuple[float, float]
    truth: Sequence[tuple[float, float]]

    def losses(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Both objectives, less being better."""
        first, second = (
            metrics[name] if way == "min" else -metrics[name]
            for name, way in self.objectives.items()
        )
        return first, second

    def share(self, found: Sequence[tuple[float, float]]) -> float:
        """Of the hypervolume that there is."""
        return hypervolume([*found], self.corner) / self.best

    @cached_property
    def best(self) -> float:
        return hypervolume([*self.truth], self.corner)

    @property
    def points(self) -> list[dict[str, Any]]:
        """The starting points as parameters."""
        return [read_point(point, self.ask, "start") for point in self.starts]


def synthetic(problem: Problem) -> Task:
    """A made-up problem, under a limit on its perplexity."""
    baseline = problem.metrics((), 0.0)
    corner = (problem.limit * baseline["perplexity"], baseline["nonzero_parameters"])
    return Task(
        problem.ask,
        problem.measure,
        {"perplexity": "min", "nonzero_parameters": "min"},
        f"<= {100 * problem.limit:g}% of baseline",
        baseline,
        problem.space.starts(problem.facts),
        corner,
        problem.truth,
    )


# -- searches --------------------------------------------------------------------------------------


@dataclass
class Found:
    """What a search measured, in order: models, and the CPU seconds that each proposal took, with
    the telling of its end."""

    scores: list[tuple[float, float]]
    seconds: list[float]
    params: list[dict[str, Any]]

    def after(self, task: Task, count: int) -> float:
        return task.share([task.losses(task.baseline), *self.scores[:count]])


def ours(task: Task, name: str, seed: int, budget: int, interrupted: Sequence[int] = ()) -> Found:
    """A search through the journal, as a launch does with one worker."""
    storage = _memory()
    found = Found([], [], [])
    for until in (*interrupted, budget):
        found = _launch(task, storage, name, seed, budget, until)
    storage.engine.dispose()
    return found


def _launch(
    task: Task, storage: RDBStorage, name: str, seed: int, budget: int, until: int
) -> Found:
    limit = parse_constraint(next(iter(task.objectives)), task.limit)
    journal = Journal(storage, "quality", task.objectives, {limit.key: limit})
    if not journal.trials():
        _settle(journal, journal.hand_out(None), task.baseline, "untouched")
    spec = SamplerSpec(name=name)
    journal.begin(sampler_source(spec, seed=seed, trials=budget, ask=task.ask), task.points)
    seconds = []
    while len(journal.trials()) - 1 - journal.repeats < until and not journal.exhausted:
        began = time.process_time()
        given = journal.hand_out(task.ask)
        spent = time.process_time() - began
        if given is not None:
            metrics = task.measure(task.ask(FixedTrial(given.params)))
            began = time.process_time()
            _settle(journal, given, metrics, str(metrics and sorted(metrics.items())))
            spent += time.process_time() - began
        seconds.append(spent)
    rows = journal.trials()[1:]
    done = [row.user_attrs["record"]["metrics"] for row in rows if row.state == TrialState.COMPLETE]
    fresh = [task.losses(one) for one in done if one != task.baseline]
    return Found(fresh, seconds, [row.params for row in rows])


def _settle(
    journal: Journal, given: Any, metrics: Mapping[str, float] | None, lineage: str
) -> None:
    record = {"state": "complete", "metrics": metrics, "lineage": lineage, "facts": None}
    if metrics is None:
        journal.fail(given.number, "no such model")
    else:
        journal.settle(given.number, record)


def plain(task: Task, sampler: BaseSampler, budget: int) -> Found:
    """Optuna alone."""
    directions = [DIRECTIONS[way] for way in task.objectives.values()]
    study = optuna.create_study(sampler=sampler, directions=directions)
    for point in task.points:
        study.enqueue_trial(point)
    limit = parse_constraint(next(iter(task.objectives)), task.limit)
    found = Found([], [], [])
    for _ in range(budget):
        began = time.process_time()
        trial = study.ask()
        stages = task.ask(trial)
        found.seconds.append(time.process_time() - began)
        metrics = task.measure(stages)
        if metrics is None:
            study.tell(trial, state=TrialState.FAIL)
            continue
        name = limit.metric
        trial.set_constraint("limit", limit.violation(metrics[name], task.baseline[name]))
        study.tell(trial, [metrics[name] for name in task.objectives])
        found.scores.append(task.losses(metrics))
    return found


def greedy(task: Task, budget: int) -> Found:
    """From the lowest point on, the step that costs least per parameter, of all that make it
    smaller."""
    walker = Walker(task.ask)
    here = walker.walk({}, lambda _, asked: default(asked))
    at, found, known = task.losses(task.baseline), Found([], [], []), {key_of([])}
    while here is not None and len(found.scores) < budget:
        near = [walker.walk(params, lambda _, asked: default(asked)) for params in steps(here)]
        best = None
        for point in near:
            if point is None or point.key in known or len(found.scores) >= budget:
                continue
            known.add(point.key)
            metrics = task.measure(task.ask(FixedTrial(point.params)))
            if metrics is None:
                continue
            scores = task.losses(metrics)
            found.scores.append(scores)
            if scores[1] < at[1] and scores[0] <= task.corner[0]:
                price = (scores[0] - at[0]) / (at[1] - scores[1])
                best = min(best or (price, scores, point), (price, scores, point), key=_price)
        here, at = (best[2], best[1]) if best else (None, at)
    return found


def _price(one: tuple[float, Any, Any]) -> float:
    return one[0]


def _memory() -> RDBStorage:
    settings = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    return RDBStorage("sqlite://", engine_kwargs=settings)


# -- the tables ------------------------------------------------------------------------------------


def compared(task: Task, seed: int, budget: int) -> Iterator[tuple[str, Found]]:
    """Every proposer on one task."""
    for label, name in OURS.items():
        yield label, ours(task, name, seed, budget)
    for label, make in PLAIN.items():
        yield label, plain(task, make(seed), budget)
    yield "greedy", greedy(task, budget)


Shares = dict[str, dict[int, list[float]]]  # proposer -> models -> share per seed


def measure(
    tasks: Sequence[tuple[int, Task]], budget: int, after: Sequence[int]
) -> tuple[Shares, bool]:
    """All proposers on all tasks, and whether interrupted searches gave the same."""
    shares: Shares = {}
    equal = True
    for seed, task in tasks:
        for name, found in compared(task, seed, budget):
            for count in after:
                table = shares.setdefault(name, {}).setdefault(count, [])
                table.append(found.after(task, count))
            if name == "default":
                few = min(budget, CHECKED)
                again = ours(task, OURS[name], seed, few, INTERRUPTED).params
                equal = equal and len(again) >= few and again == found.params[: len(again)]
    return shares, equal


def lines(title: str, shares: Shares) -> Iterator[str]:
    """A table for people."""
    after = list(next(iter(shares.values())))
    yield f"{title}: share of the true hypervolume, mean (lowest)"
    yield f"{'proposer':<16}" + "".join(f"{f'after {count}':>18}" for count in after)
    for name, found in shares.items():
        cells = [f"{sum(v) / len(v):.3f} ({min(v):.3f})" for v in found.values()]
        yield f"{name:<16}" + "".join(f"{cell:>18}" for cell in cells)


def told(case: str, shares: Shares, equal: bool) -> dict[str, Any]:
    """For programs: the default against the best of plain TPE, NSGA-II and random, per seed."""
    found = {}
    for count, mine in shares["default"].items():
        theirs = [max(one) for one in zip(*(shares[n][count] for n in PLAIN), strict=True)]
        baseline, own = sum(theirs) / len(theirs), sum(mine) / len(mine)
        found[f"{case}, after {count}"] = {
            "baseline": round(baseline, 4),
            "ours": round(own, 4),
            "ratio": round(own / baseline, 4),
            "equal": equal,
            "never worse": all(a >= b for a, b in zip(mine, theirs, strict=True)),
        }
    return found


def timed(known: int) -> dict[str, Any]:
    """How long the default takes for a proposal and its end, with few trials and with many."""
    (task, few), medians = (synthetic(Problem(0)), 50), []
    for count in (few, known):
        storage = _memory()
        _launch(task, storage, "random", 0, count, count)
        found = _launch(task, storage, "auto", 0, count + TIMED, count + TIMED)
        storage.engine.dispose()
        medians.append(1000 * statistics.median(found.seconds))
    sys.stdout.write(
        f"CPU time of a proposal and its end, median of {TIMED}: with {few} trials known "
    )
    sys.stdout.write(f"{medians[0]:.0f} ms, with {known} {medians[1]:.0f} ms\n\n")
    return {
        "milliseconds": {
            "baseline": round(medians[0], 1),
            "ours": round(medians[1], 1),
            "ratio": round(medians[1] / medians[0], 2),
            "known": known,
        }
    }


def real(name: str, folder: Path, seeds: Sequence[int]) -> tuple[list[tuple[int, Task]], int]:
    """A real study for every seed, and how many models its space has."""
    from benchmarks.measured import STUDIES, Measured

    study = Measured(STUDIES[name], folder)
    models = study.enumerate() if study.study.model.train else [*filter(None, study.known.values())]
    objectives = dict(study.study.objectives)
    (limit,) = study.study.limits
    task = Task(
        study.ask,
        study.measure,
        objectives,
        limit.text,
        study.baseline,
        study.space.starts(study.facts),
        (0.0, 0.0),
        (),
    )
    first = limit.limit(study.baseline[limit.metric])
    corner = task.losses({**study.baseline, limit.metric: first})
    truth = [task.losses(one) for one in models]
    whole = replace(task, corner=corner, truth=truth)
    return [(seed, whole) for seed in seeds], len(models)


def main(given: argparse.Namespace) -> None:
    """Search, print tables and a line of JSON."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = range(given.first, given.first + given.seeds)
    said: dict[str, Any] = {}
    cases: list[tuple[str, list[tuple[int, Task]], int, Sequence[int]]] = []
    if given.known:
        said |= timed(given.known)
    elif given.real:
        tasks, size = real("minilm", given.to, seeds)
        cases.append(("MiniLM, enumerated", tasks, size // 10, (size // 20, size // 10)))
    elif given.smollm2:
        for seed, task in real("smollm2", given.to, seeds)[0]:  # the second time all is known
            sys.stdout.writelines(f"{name}, seed {seed}\n" for name, _ in compared(task, seed, 60))
        tasks, _ = real("smollm2", given.to, seeds)
        cases.append(("SmolLM2", tasks, 60, (24, 50, 60)))
    else:
        for name in given.family or FAMILIES:
            made = [(seed, synthetic(Problem(seed, **FAMILIES[name]))) for seed in seeds]
            reached = [count for count in AFTER if count <= given.budget]
            cases.append((name, made, given.budget, reached))
    for name, tasks, budget, after in cases:
        shares, equal = measure(tasks, budget, after)
        sys.stdout.write("\n".join([*lines(name, shares), "", ""]))
        said |= told(name, shares, equal)
    sys.stdout.write(json.dumps(said) + "\n")
    assert all(one.get("equal", True) for one in said.values()), "interrupted it is another search"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--from", dest="first", type=int, default=8, help="the first seed")
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    parser.add_argument("--budget", type=int, default=max(AFTER))
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--known", type=int, help="only time proposals, with so many trials")
    parser.add_argument("--to", type=Path, default=Path("runs/search-quality"))
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
