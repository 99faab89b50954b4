"""One driver and many simulated GPUs: how busy they are kept, what a trial costs the driver.

python -m benchmarks.scale [--gpus 4 64 512] [--trials 1000 10000] [--seconds 60] [--sampler random]

The searcher, the journal (SQLite) and the sampler are the real ones; trials only say how long they
took, on a clock of their own, to which every call adds the CPU time it really takes. Ray is not in
it: what Tune adds, `python -m benchmarks.engine` shows. GPUs are counted busy until the last
trial was handed out, since after that there is nothing to give them.
"""

import argparse
import heapq
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial

from benchmarks.growth import record, values
from search.engine.dispatch import Plan
from search.engine.searcher import WorkSearcher
from search.journal.journal import Journal
from search.journal.store import Store, open_storage
from search.samplers.build import sampler_source
from search.study.load import parse_study
from search.study.schema import SamplerSpec
from spaces.omission_wanda import OmissionWandaSpace
from trainables.core.errors import UserError
from trainables.stage import Facts, Stage

BLOCKS = 32
SPACE = OmissionWandaSpace(max_skip=12, high=60)
FACTS = Facts(BLOCKS, survey={"influence": [((7 * n) % BLOCKS) / 10 for n in range(BLOCKS)]})
STUDY = """
name = "scale"
space = "omission_wanda"
[model]
id = "asset:smollm2-135m"
[data]
dataset = "asset:imdb"
task = "language-modelling"
[objectives]
perplexity = "min"
parameters = "min"
[constraints]
perplexity = "<= 130% of baseline"
[budget]
trials = {trials}
"""


def ask(trial: Any) -> list[Stage]:
    """What a worker would do."""
    return SPACE.stages(trial, FACTS)


@dataclass
class Gpus:
    """Room for so many trials; nothing goes wrong."""

    room: int

    def slots(self) -> int:
        """All of it."""
        return self.room

    def works(self, node: str) -> None: ...

    def strike(self, node: str) -> None: ...

    def left(self) -> bool:
        """Always."""
        return True

    def lack(self) -> UserError:
        """Never asked for."""
        return UserError("resources: no node can hold a trial")

    def waiting(self) -> int:
        """Nobody."""
        return 0


@dataclass
class Simulation:
    """A study on simulated GPUs.

    Attributes:
        now: seconds since its begin: the driver is at it, or waits for the next trial to end.
        costs: CPU seconds that each trial took of the driver, by its name at Tune.
    """

    gpus: int
    trials: int
    seconds: float
    sampler: str
    folder: Path
    now: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        study = parse_study(STUDY.format(trials=self.trials), "scale.toml")
        self.storage = open_storage(Store(self.folder, study.name), create=True)
        limits = {limit.key: limit for limit in study.limits}
        journal = Journal(self.storage, study.name, study.objectives, limits)

        def ready(facts: Facts) -> Any:
            spec = SamplerSpec(name=self.sampler)
            source = sampler_source(
                spec, seed=0, trials=self.trials, ask=ask, directions=study.directions
            )
            journal.begin(source, [])
            return ask

        places = Gpus(self.gpus)
        plan = Plan(journal, study.budget, lambda: self.now, places, ready, lambda number: None)
        self.searcher, self.journal = WorkSearcher(plan), journal

    def run(self) -> dict[str, float]:
        """Until the budget is spent; what it took."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        given = self._begin("baseline")
        assert given is not None
        self._end("baseline", given)
        self.costs.clear()
        began, spans = self.now, self._search()
        last = max(begin for begin, _ in spans)  # when the last trial was handed out
        busy = sum(min(end, last) - begin for begin, end in spans)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        tenth = len(spans) // 10 or 1
        per_trial = list(self.costs.values())
        return {
            "utilisation_percent": round(100 * busy / (self.gpus * (last - began)), 1),
            "driver_ms": _mean(per_trial),
            "first_tenth_ms": _mean(per_trial[:tenth]),
            "last_tenth_ms": _mean(per_trial[-tenth:]),
            "hours": round(self.now / 3600, 2),
            "memory_mb": round(grown / 1024, 1),
        }

    def _search(self) -> list[tuple[float, float]]:
        """Begin and end of every trial."""
        spans: list[tuple[float, float]] = []
        ends: list[tuple[float, str, dict[str, Any]]] = []
        while True:
            while len(ends) < self.gpus:
                name = f"t{len(spans):06d}"
                if (given := self._begin(name)) is None:
                    break
                end = self.now + self.seconds * self.chance.uniform(0.8, 1.2)
                spans.append((self.now, end))
                heapq.heappush(ends, (end, name, given))
            if not ends:
                return spans
            end, name, given = heapq.heappop(ends)
            self.now = max(self.now, end)
            self._end(name, given)

    def _begin(self, name: str) -> dict[str, Any] | None:
        """Ask for a trial, as Tune does; None where there is none now."""
        given = self._timed(name, lambda: self.searcher.suggest(name))
        if self.searcher.plan.error is not None:
            raise self.searcher.plan.error
        return given if isinstance(given, dict) else None

    def _end(self, name: str, config: dict[str, Any]) -> None:
        """A trial's worker reports."""
        given = config["given"]
        metrics = {"perplexity": 20.0, "parameters": 1e8} if not given.number else self._measured()
        told = record(given.number, metrics, given.params) | {"uid": given.uid, "node": "a"}
        if given.number:
            told["stages"] = [_done(stage) for stage in ask(FixedTrial(given.params))]
        else:
            told["facts"] = asdict(FACTS)
        text = json.dumps(told)
        told_end = {"record": text, "done": True}
        self._timed(name, lambda: self.searcher.on_trial_complete(name, told_end))
        if self.searcher.plan.error is not None:
            raise self.searcher.plan.error

    def _measured(self) -> dict[str, float]:
        return values(self.chance)

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = call()
        cost = time.process_time() - began
        self.now += cost
        self.costs[name] = self.costs.get(name, 0.0) + cost
        return found


def _mean(costs: list[float]) -> float:
    return round(1e3 * sum(costs) / len(costs), 2)


def _done(stage: Stage) -> dict[str, Any]:
    settings = stage.settings()
    return {
        "stage": type(stage).__name__,
        "label": type(stage).__name__,
        "settings": settings,
        "spec": stage.to_dict(),
        "effects": [],
        "counts": {},
        "pictures": [],
        "seconds": 0.1,
    }


def main(arguments: list[str]) -> None:
    """Simulate, print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[4, 64, 512])
    parser.add_argument("--trials", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--seconds", type=float, default=60.0, help="of a trial, on average")
    parser.add_argument("--sampler", default="random")
    asked = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[str, dict[str, float]] = {}
    for trials in asked.trials:
        for gpus in asked.gpus:
            with tempfile.TemporaryDirectory(prefix="rayduce-") as folder:
                made = Simulation(gpus, trials, asked.seconds, asked.sampler, Path(folder))
                found[f"{gpus} GPUs, {trials} trials"] = made.run()
                made.storage.engine.dispose()
    names = list(next(iter(found.values())))
    lines = [f"{'':>26}" + "".join(f"{name:>21}" for name in names)]
    lines += [f"{key:>26}" + "".join(f"{row[n]:>21}" for n in names) for key, row in found.items()]
    sys.stdout.write("\n".join([*lines, json.dumps(found)]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
