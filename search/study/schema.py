"""The tables of a study file, as pydantic models.

What they mean together is checked in checks.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from search.study.constraints import Constraint, parse_constraint
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.core.errors import UserError
from trainables.core.spec import BenchSpec, Count, DataSpec, Gpus, ModelSpec, Seed, Slug, Spec
from trainables.routing.spec import RouteSpec

Direction = Literal["min", "max"]
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
RUNS = "runs"  # the folder of the results where nobody says another


def _function(name: str) -> str:
    if not FUNCTION.fullmatch(name):
        raise ValueError('an importable function, such as "my_package.scores:toxicity"')
    return name


def _sampler_name(name: str) -> str:
    """Ours that stood under another name in the files of earlier versions."""
    old = ("search.levelswitch:make", "search.samplers.level_switch:make")
    return "level-switch" if name in old else name


def _limits(table: object) -> object:
    """Each metric's limits read; one text counts as a list of one. All that is wrong is told."""
    if not isinstance(table, Mapping):
        return table
    found, wrong = {}, []
    for metric, given in table.items():
        texts = given if isinstance(given, list | tuple) else [given]
        try:
            found[metric] = tuple(parse_constraint(metric, text) for text in texts)
        except UserError as error:
            told = PydanticCustomError("limit", "{error}", {"error": error})
            wrong.append(InitErrorDetails(type=told, loc=(metric,), input=given))
    if wrong:
        raise ValidationError.from_exception_data("constraints", wrong)
    return found


def _texts(limits: Mapping[str, tuple[Constraint, ...]]) -> dict[str, list[str]]:
    return {metric: [limit.text for limit in given] for metric, given in limits.items()}


Function = Annotated[str, AfterValidator(_function)]
Limits = Annotated[
    dict[str, tuple[Constraint, ...]], BeforeValidator(_limits), PlainSerializer(_texts)
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Named(Spec):
    """A name with settings: the keys this table does not know belong to what is named."""

    name: str
    options: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("options", {}), dict):
            return value
        own = {key: item for key, item in value.items() if key in cls.model_fields}
        rest = {key: item for key, item in value.items() if key not in cls.model_fields}
        return own | {"options": own.get("options", {}) | rest}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in type(self).model_fields if key != "options"}
        return {key: item for key, item in own.items() if item is not None} | self.options


class SpaceSpec(Named):
    """Which space; the other keys override its ranges."""

    name: str = Field(description='what may vary, such as name = "omission"')


class SamplerSpec(Named):
    """Who proposes the points; the other keys are the sampler's own settings."""

    name: Annotated[str, AfterValidator(_sampler_name)] = "auto"


class SchedulerSpec(Named):
    """Who stops poor trials early: by one metric that stages report, or by racing."""

    name: Literal["none", "asha", "median", "racing"] = "none"
    metric: str | None = None
    mode: Direction | None = None


class Budget(Spec):
    """When a study is done: whichever comes first."""

    trials: Count | None = None  # models to measure, the untouched one aside
    hours: Positive | None = None
    minutes_per_trial: Positive | None = None  # one that takes longer is stopped, and has failed

    def spent(
        self, trials: int, seconds: float, *, repeats: int = 0, exhausted: object = False
    ) -> bool:
        """Whether no new trial may start.

        Args:
            trials: how many there are, without the baseline.
            seconds: how long the study ran, all launches together.
            repeats: how many of them turned out to be a model that was measured before. They take
                no place, as long as there are no more of them than `trials` allows models.
            exhausted: whether its sampler has nothing more to propose.
        """
        enough = self.trials is not None and trials - min(repeats, self.trials) >= self.trials
        late = self.hours is not None and seconds >= self.hours * 3600
        return enough or late or bool(exhausted)


class Resources(Spec):
    """What one trial gets, and how many may run at once."""

    cpus: Count = 1
    gpus: Gpus = 0.0
    memory_gb: Positive | None = None
    workers: Count | None = None


class StorageSpec(Spec):
    """Where results land; a PostgreSQL URL for drivers on several machines."""

    folder: str = RUNS
    database: str | None = None
    cache_gb: Positive = 20.0


class Study(Spec):
    """A study file."""

    name: Slug = Field(description='what the study is called, such as name = "depth"')
    space: SpaceSpec = Field(description='what may vary, such as space = "omission"')
    seed: Seed = 0
    model: ModelSpec = Field(description='a table [model] with id = "..."')
    data: DataSpec = Field(description="a table [data] with dataset and task")
    objectives: dict[str, Direction] = Field(
        min_length=1, description='a table [objectives], such as accuracy = "max"'
    )
    constraints: Limits = Field(default={})
    metrics: dict[str, Function] = Field(default={})
    budget: Budget = Field(description="a table [budget] with trials and/or hours")
    sampler: SamplerSpec = SamplerSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    resources: Resources = Resources()
    storage: StorageSpec = StorageSpec()
    first: tuple[dict[str, Any], ...] = Field(
        (), description="a list of tables, each begun with [[first]]"
    )
    route: RouteSpec | None = None  # of a routing study: its own file's tables

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints, in the file's order."""
        return tuple(limit for given in self.constraints.values() for limit in given)

    @property
    def metrics_measured(self) -> tuple[str, ...]:
        """Every metric a trial reports: objectives, constraints, the user's own."""
        return tuple(dict.fromkeys([*self.objectives, *self.constraints, *self.metrics]))

    @property
    def directions(self) -> dict[str, Direction]:
        """Which way is better, of the metrics measured that have one; objectives first."""
        known: dict[str, Direction] = dict(self.objectives)
        for name in self.metrics_measured:
            if name in METRIC_FACTS:
                known.setdefault(name, METRIC_FACTS[name].direction)
        return known

    def bench_spec(self, cache: Path, *, naive: bool = False) -> BenchSpec:
        """What the workers need: plain data only."""
        return BenchSpec(
            model=self.model,
            data=self.data,
            metrics=dict(self.metrics),
            objectives=self.metrics_measured,
            seed=self.seed,
            cache=str(cache.absolute()),
            cache_gb=self.storage.cache_gb,
            device="cuda" if self.resources.gpus else "cpu",
            cards=max(1, int(self.resources.gpus)),
            threads=self.resources.cpus,
            naive=naive,
        )
