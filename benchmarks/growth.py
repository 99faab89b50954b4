"""What a study costs as it grows: handing out, telling, reading, choosing, at 100 to 10,000 trials.

python -m benchmarks.growth [TRIALS ...]

Every trial has 24 parameters, two objectives, a constraint and a record as a worker writes it. The
sampler is the random one, since what a sampler itself takes is its own; the journal is SQLite.
"""

import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import IntDistribution, distribution_to_json
from optuna.samplers import RandomSampler
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import RDBStorage
from optuna.trial import TrialState

from search.journal.journal import Journal
from search.journal.store import Store, open_storage
from search.journal.tables import BRIEF, brief
from search.journal.view import read
from search.report.best import best, status_json
from search.study.load import parse_study, study_toml

SIZES = (100, 1_000, 10_000)
TIMED = 20  # trials handed out and told at each size
BLOCKS = 24
STUDY = """
name = "growth"
space = "omission"
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
trials = 100_000
"""


def ask(trial: optuna.Trial) -> None:
    """A 0 or 1 for every block."""
    for block in range(BLOCKS):
        trial.suggest_int(f"omission.skip.{block:02d}", 0, 1)


def record(
    number: int, metrics: dict[str, float], params: dict[str, int] | None = None
) -> dict[str, Any]:
    """What a worker reports."""
    settings = {"skip": list(range(number % 7)), "attention": [], "ffn": []}
    return {
        "number": number,
        "uid": f"00000000-{number:05d}",
        "params": params or {},
        "state": "complete",
        "reason": None,
        "metrics": metrics,
        "stages": [
            {
                "stage": "Omission",
                "label": "Omission",
                "settings": settings,
                "spec": {"stage": "trainables.omission:Omission", "fields": settings},
                "effects": [{"effect": "Removed", "blocks": settings["skip"]}],
                "counts": {"removed": number % 7},
                "pictures": [],
                "seconds": 0.1,
            }
        ],
        "lineage": f"{number:016x}",
        "same_as": None,
        "shape": {"parameters": 1e8, "blocks": BLOCKS, "stacks": [BLOCKS]},
        "seconds": {"stages": 0.1, "evaluate": 0.2, "total": 0.3},
        "hardware": {"device": "cpu", "threads": 1, "torch": "2", "python": "3.11"},
        "data": {"calibration": "c" * 16, "search": "s" * 16},
        "facts": None,
    }


def values(chance: random.Random) -> dict[str, float]:
    """Two objectives that are bought with each other."""
    size = chance.random()
    return {"perplexity": 20 + chance.expovariate(1.0) / (0.1 + size), "parameters": size * 1e8}


def fill(storage: RDBStorage, study_id: int, numbers: range) -> None:
    """Write trials that ended, all in one go: as the journal writes them, row by row the same."""
    chance, now = random.Random(numbers.start), datetime.now()
    coin = distribution_to_json(IntDistribution(0, 1))
    tables: dict[Any, list[dict[str, Any]]] = {}

    def add(model: Any, **row: Any) -> None:
        tables.setdefault(model.__table__, []).append(row)

    for number in numbers:
        key, found = number + 1, values(chance)
        add(
            models.TrialModel,
            **{"trial_id": key, "number": number, "study_id": study_id},
            **{"state": TrialState.COMPLETE, "datetime_start": now, "datetime_complete": now},
        )
        params = {f"omission.skip.{block:02d}": chance.randint(0, 1) for block in range(BLOCKS)}
        for name, value in params.items():
            add(
                models.TrialParamModel,
                **{"trial_id": key, "param_name": name, "param_value": value},
                distribution_json=coin,
            )
        for objective, measured in enumerate(found.values()):
            kind = models.TrialValueModel.TrialValueType.FINITE
            add(
                models.TrialValueModel,
                **{"trial_id": key, "objective": objective, "value": measured, "value_type": kind},
            )
        told = record(number, found, params)
        for name, data in (("record", told), (BRIEF, brief(told, params))):
            text = json.dumps(data)
            add(models.TrialUserAttributeModel, trial_id=key, key=name, value_json=text)
        limit = "constraints:perplexity <= 130% of baseline"
        add(models.TrialSystemAttributeModel, trial_id=key, key=limit, value_json="-0.5")
    with storage.engine.begin() as connection:
        for table, rows in tables.items():
            connection.execute(sqlalchemy.insert(table), rows)


class Study:
    """A study that is made larger and larger."""

    def __init__(self, folder: Path) -> None:
        self.study = parse_study(STUDY, "growth.toml")
        self.store = Store(folder, self.study.name)
        self.storage = open_storage(self.store, create=True)
        self.chance = random.Random(0)

    def open(self) -> Journal:
        """The journal as a launch opens it."""
        known = {limit.key: limit for limit in self.study.limits}
        return Journal(self.storage, self.study.name, self.study.objectives, known)

    def begin(self) -> None:
        """The baseline."""
        journal = self.open()
        journal.note("toml", study_toml(self.study))
        journal.hand_out(None)
        journal.settle(0, record(0, {"perplexity": 20.0, "parameters": 1e8}))
        self.size = 1

    def grow(self, size: int) -> None:
        """Up to so many trials."""
        fill(self.storage, 1, range(self.size, size))
        self.size = size

    def measure(self) -> dict[str, float]:
        """Milliseconds of everything that is done again and again, seconds of the rest."""
        journal, opened = timed(self.open)
        _, begun = timed(lambda: journal.begin(RandomSampler(seed=0), []))
        handing, telling = zip(*itertools.islice(self._trials(journal), TIMED), strict=True)
        self.size += TIMED
        view, reading = timed(lambda: read(self.store))
        return {
            "hand_out_ms": round(1e3 * median(handing), 2),
            "settle_ms": round(1e3 * median(telling), 2),
            "resume_s": round(opened + begun, 2),
            "read_s": round(reading, 2),
            "best_s": round(timed(lambda: best(view, top=3))[1], 2),
            "status_s": round(timed(lambda: status_json(view))[1], 2),
        }

    def _trials(self, journal: Journal) -> Iterator[tuple[float, float]]:
        while True:
            handout, handing = timed(lambda: journal.hand_out(ask))
            assert handout is not None
            told = record(handout.number, values(self.chance), handout.params)
            _, telling = timed(lambda: journal.settle(handout.number, told))  # noqa: B023
            yield handing, telling


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def main(sizes: list[int]) -> None:
    """Measure, print a table and a line of JSON."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="rayduce-") as folder:
        study = Study(Path(folder))
        study.begin()
        for size in sizes:
            study.grow(size)
            found[size] = study.measure()
        study.storage.engine.dispose()
    names = list(next(iter(found.values())))
    lines = [f"{'trials':>8}" + "".join(f"{name:>13}" for name in names)]
    lines += [f"{size:>8}" + "".join(f"{row[n]:>13}" for n in names) for size, row in found.items()]
    first, last = found[sizes[0]], found[sizes[-1]]
    told = {
        name: {"baseline": first[name], "ours": last[name], "trials": [sizes[0], sizes[-1]]}
        for name in names
    }
    sys.stdout.write("\n".join([*lines, json.dumps(told)]) + "\n")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or list(SIZES))
