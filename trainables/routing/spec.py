"""The tables of a routing study (PuDDing): plain validated data, read by driver and workers."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainables.core.spec import Count, DataSpec, Gpus, ModelSpec, Seed, Slug, Spec, Task
from trainables.routing.answers import Target

TaskLoss = Literal["tl", "tld"]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _several(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Budgets = Annotated[tuple[Count, ...], BeforeValidator(_several), Field(min_length=1)]
# Of the sets that were found: those least alike; those that together answer the training items
# best; or PuDDing's ten for Llama-3.1-8B, in place of a search.
Choice = Literal["diverse", "complement", "published"]


# Ways of choosing a set that can be served, of which the first omits nothing.
DENSE, ROUTER, KEPT = "dense model", "router", "router with fallback"
STATIC, LIKELY = "best static set, by training accuracy", "best static set, by training likelihood"
CHANCE, MAJORITY = "best static set, by training probability", "set most often best in training"
SERVED = (DENSE, ROUTER, KEPT, STATIC, LIKELY, CHANCE, MAJORITY)


class RouteTask(DataSpec):
    """One data set of questions. Roles: `calibration` finds sets, `train` teaches the router,
    `held_out` judges it."""

    task: Task = "multiple-choice"
    normalised: bool = False  # answers are compared per character (acc_norm)
    routed: bool = True  # False: judged only, never seen by sets or router


class SetsSpec(Spec):
    """Stage 1: the omission sets to choose from."""

    file: str | None = None  # sets in the published CSV form, instead of a search
    budget: Budgets = (7,)  # blocks to omit, or several such numbers: one search finds them all
    wanted: Count = 10
    choose: Choice = "diverse"
    losses: tuple[TaskLoss, ...] = ("tl", "tld")
    seeds: Count = 1  # searches per task and loss, each on its own part of the calibration items
    packed: bool = True  # choices of a question in one row, where the model allows


class LikelihoodSpec(Spec):
    """Stage 2: the router's data set."""

    shard: Count = 32  # items per durable piece of work
    batch_size: Count = 16  # rows that go through the model together


class RouterSpec(Spec):
    """Stage 3: the router and how it is trained; the defaults are the published ones."""

    encoder: str = "google-bert/bert-base-uncased"  # hub id, folder or asset:NAME
    lr: Positive = 1e-5
    epochs: Count = 10
    batch_size: Count = 32
    warmup: Annotated[int, Field(ge=0)] = 500  # steps; a shorter training takes a tenth of its own
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01  # not of biases, norms
    target: Target = (
        "likelihood"  # of the right answer; its margin over the others; its probability
    )
    centre: bool = False  # subtract each prompt's mean: how hard it is says nothing about sets
    max_length: Count = 256
    validation: Share = 0.1  # of each task's items; no item is on both sides
    seed: Seed = 42

    def to_dict(self) -> dict[str, Any]:
        """What identifies it among proposals."""
        return self.model_dump()


class RouterSearch(Spec):
    """A search over the router's settings (spaces/router.py)."""

    trials: Count = 1  # 1: the settings above alone
    targets: tuple[Target, ...] = ()  # to choose from; none: the one above
    encoders: tuple[str, ...] = ()  # to choose from; none: the one above


class EvaluationSpec(Spec):
    """Stage 4."""

    prompts: Count = 8  # to time
    new_tokens: Count = 32
    harness: str | None = None  # tasks of lm-evaluation-harness, or their files, to judge by too
    questions: Count | None = None  # of each of its tasks, drawn by the study's seed; None: all
    max_length: Count = 1024  # tokens of such a question with an answer


class RouteResources(Spec):
    """What one worker gets, and how many there are. No workers: all in this process, without
    Ray."""

    workers: Annotated[int, Field(ge=0)] = 1
    cpus: Count = 1
    gpus: Gpus = 0.0


class RouteSpec(Spec):
    """A routing study."""

    name: Slug
    seed: Seed = 42
    model: ModelSpec
    tasks: dict[str, RouteTask] = Field(min_length=1)
    sets: SetsSpec = SetsSpec()
    dataset: LikelihoodSpec = LikelihoodSpec()
    router: RouterSpec = RouterSpec()
    search: RouterSearch = RouterSearch()
    evaluation: EvaluationSpec = EvaluationSpec()
    resources: RouteResources = RouteResources()
    folder: str = "runs"

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.resources.gpus else "cpu"

    @property
    def cache(self) -> str:
        """The folder that all its workers share."""
        return str(Path(self.folder).absolute() / "cache")

    @property
    def abreast(self) -> int:
        """How many routers are trained at a time."""
        return self.resources.workers or 1

    @property
    def searched(self) -> bool:
        """Whether sets are searched for."""
        return self.sets.file is None and self.sets.choose != "published"

    def encoders(self) -> list[str]:
        """Every encoder that a router may start from."""
        return list(dict.fromkeys([self.router.encoder, *self.search.encoders]))

    def harness_data(self) -> DataSpec | None:
        """How the harness's questions are read; None where no such task is named."""
        wanted = self.evaluation
        if wanted.harness is None:
            return None
        return DataSpec(
            dataset="harness",
            task="multiple-choice",
            harness=wanted.harness,
            max_length=wanted.max_length,
            batch_size=self.dataset.batch_size,
        )

    def routed(self) -> list[str]:
        """The tasks that sets and router may learn from."""
        return [name for name, task in self.tasks.items() if task.routed]
