"""A small study with results made up by hand: two objectives, one constraint, one failure."""

from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from sqlalchemy import StaticPool

from search.journal.journal import Journal
from search.journal.store import Store, open_storage
from search.study.load import parse_study, study_toml
from search.study.schema import Study

TOML = """
name = "depth"
space = "omission"
seed = 7
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
trials = 6
"""

# What is skipped, the sparsity, perplexity, parameters; None fails.
POINTS: tuple[tuple[tuple[int, int], int, float | None, float], ...] = (
    ((1, 0), 0, 21.0, 131e6),  # front
    ((1, 1), 0, 25.0, 127e6),  # front, the smallest that is feasible
    ((0, 0), 30, 23.0, 134e6),  # dominated by the first
    ((1, 1), 50, None, 0),  # fails
    ((1, 1), 40, 90.0, 127e6),  # misses the constraint
    ((0, 1), 0, 22.0, 131e6),  # dominated by the first
)
BASELINE = {"perplexity": 20.0, "parameters": 134e6}


def sample_study(text: str = TOML, **changes: Any) -> Study:
    """The study as its file would be read."""
    return parse_study(text, "depth.toml").model_copy(update=changes)


def record(
    uid: str,
    number: int,
    metrics: dict[str, float],
    stages: Any = (),
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What a worker reports for a trial that went well."""
    return {
        "uid": uid,
        "number": number,
        "params": params or {},
        "state": "complete",
        "reason": None,
        "metrics": metrics,
        "stages": list(stages),
        "lineage": f"{number:016x}",
        "same_as": None,
        "seconds": {"stages": 0.5, "evaluate": 1.0, "total": 1.5},
        "progress": [],
        "hardware": {"device": "cpu", "threads": 1, "torch": "2.13.0", "python": "3.11.2"},
        "data": {"calibration": "c" * 16, "search": "5" * 16},
        "facts": None,
    }


def stages_of(skip: tuple[int, int], percent: int) -> list[dict[str, Any]]:
    """The chain of a point."""
    gone = [block for block, chosen in zip((20, 21), skip, strict=True) if chosen]
    omission = {"skip": gone, "attention": [], "ffn": []}
    wanda = {"sparsity": percent / 100, "pattern": None}
    return [
        _stage("Omission", omission, {"effect": "Removed", "blocks": gone} if gone else None),
        _stage("Wanda", wanda, {"effect": "Zeroed"} if percent else None),
    ]


def _stage(name: str, settings: dict[str, Any], effect: Any) -> dict[str, Any]:
    module = {"Omission": "trainables.omission", "Wanda": "trainables.wanda"}[name]
    return {
        "stage": name,
        "label": name,
        "settings": settings,
        "spec": {"stage": f"{module}:{name}", "version": 1, "fields": settings},
        "effects": [effect] if effect else [],
        "counts": {},
        "details": {},
        "pictures": [],
        "seconds": 0.2,
    }


def memory() -> RDBStorage:
    """A storage that lasts as long as the test: like a file's, but quick."""
    settings = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    return RDBStorage("sqlite://", engine_kwargs=settings)


class Sample:
    """A store with a journal in it, to which trials can be added."""

    def __init__(self, folder: Path, study: Study | None = None) -> None:
        self.study = study or sample_study()
        self.store = Store(folder, self.study.name)
        self.storage = open_storage(self.store, create=True)
        self.journal = Journal(
            self.storage,
            self.study.name,
            self.study.objectives,
            {limit.key: limit for limit in self.study.limits},
        )
        self.store.toml.write_text(study_toml(self.study))
        self.journal.note("toml", study_toml(self.study))
        self.journal.note("git_commit", "0123abc")

    def baseline(self) -> None:
        """Measure the untouched model."""
        handout = self.journal.hand_out(None)
        self.journal.settle(handout.number, record(handout.uid, 0, BASELINE))
        self.journal.begin(RandomSampler(seed=1), [])

    def hand_out(self, skip: tuple[int, int] = (0, 0), percent: int = 0) -> int:
        """Start a trial at a point."""
        assert self.journal.copy is not None
        point = {"omission.skip.20": skip[0], "omission.skip.21": skip[1], "wanda.percent": percent}
        self.journal.copy.study.enqueue_trial(point)

        def ask(trial: optuna.Trial) -> None:
            trial.suggest_int("omission.skip.20", 0, 1)
            trial.suggest_int("omission.skip.21", 0, 1)
            trial.suggest_int("wanda.percent", 0, 50)

        return self.journal.hand_out(ask).number

    def settle(self, number: int, metrics: dict[str, float], stages: Any = ()) -> None:
        """End a trial well."""
        uid, params = self.journal.uid(number), dict(self.journal.trials()[number].params)
        self.journal.settle(number, record(uid, number, metrics, stages, params))

    def run(self, upto: int = len(POINTS)) -> "Sample":
        """The baseline and the first of the points."""
        self.baseline()
        for skip, percent, perplexity, parameters in POINTS[:upto]:
            number = self.hand_out(skip, percent)
            if perplexity is None:
                self.journal.fail(number, "perplexity was nan")
                continue
            metrics = {"perplexity": perplexity, "parameters": parameters}
            self.settle(number, metrics, stages_of(skip, percent))
        return self

    def close(self) -> None:
        """Let go of the database."""
        self.storage.engine.dispose()
