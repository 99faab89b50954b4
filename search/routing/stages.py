"""The four stages of a routing study (PuDDing): sets, data set, router, evaluation.

    runs/<study>/sets/        one file per greedy search        -> sets.csv
    runs/<study>/dataset/     one file per shard of items       -> router.parquet, all_log.csv
    runs/<study>/routers/     one folder per training           -> router.json
    runs/<study>/evaluation/  one file per shard of items       -> evaluation.json

Each stage runs what it needs of those before. All pieces are durable and named after what they
depend on, by its content, so that an interrupted or repeated command does only what is missing,
and other settings, data or weights start afresh.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from search.engine.pool import Pool, Tell, WorkItem, finish, open_pool
from search.journal.lock import study_lock
from search.routing.evaluation import Evaluation, by_training, evaluate, judge
from search.routing.harness import Asked, harness_rows
from search.routing.load import resources_of, store_of
from search.routing.router_search import search_router
from trainables.core.cache import digest, write_durably
from trainables.core.spec import Role
from trainables.omission.searches import Omit, diverse, greedy, read_sets, write_sets
from trainables.routing.examples import read_examples, usable
from trainables.routing.spec import RouterSpec, RouteSpec


def make_worker(spec: RouteSpec) -> object:
    """A worker of the study, in the process that calls this."""
    from trainables.routing.worker import RouteWork

    return RouteWork(spec)


@contextmanager
def opened(spec: RouteSpec, tell: Tell) -> Iterator[tuple["Route", Pool]]:
    """The study and its workers, while nobody else runs it."""
    with (
        study_lock(store_of(spec)),
        open_pool(partial(make_worker, spec), resources_of(spec), tell) as pool,
    ):
        yield Route(spec, tell), pool


@dataclass
class Route:
    """A routing study and its folder."""

    spec: RouteSpec
    tell: Tell = lambda text: None
    _known: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return store_of(self.spec).root

    def identity(self, pool: Pool) -> dict[str, Any]:
        """What the model, the code, the encoders and the tasks' questions are; asked once."""
        if not self._known:
            [self._known] = pool.call("identity", [{}])
        return self._known

    def key(self, pool: Pool, *parts: Any) -> str:
        """What a piece depends on, in 16 hex digits."""
        return digest(self.identity(pool)["model"], self.spec.seed, *parts)

    def _asked(self, pool: Pool, task: str, role: Role) -> list[Any]:
        """A task's questions in a role, and how they are cut."""
        table = self.spec.tasks[task]
        return [self.identity(pool)["tasks"][task][role], table.max_length]

    # -- stage 1 -----------------------------------------------------------------------------

    def sets(self, pool: Pool) -> dict[str, Omit]:
        """The omission sets: read from the study's file, or searched for."""
        wanted = self.spec.sets
        if wanted.file:
            found = diverse(read_sets(Path(wanted.file)), wanted.wanted)
        else:
            items = self._searches(pool)
            if wanted.spread:
                for name, item in items.items():
                    self.tell(f"sets: {name}")
                    _spread(self.spec, pool, item)
            finish(pool, list(items.values()))
            orders = {name: tuple(item.result()["order"]) for name, item in items.items()}
            found = diverse(orders, wanted.wanted)
        self.root.mkdir(parents=True, exist_ok=True)
        write_sets(self.root / "sets.csv", found)
        return found

    def _searches(self, pool: Pool) -> dict[str, WorkItem]:
        spec, items = self.spec, {}
        for task in spec.routed():
            for loss in spec.sets.losses:
                for seed in range(spec.sets.seeds):
                    what = {"task": task, "loss": loss, "seed": seed}
                    name = f"{task}-{loss}" + (f"-{seed}" if spec.sets.seeds > 1 else "")
                    asked, sets = self._asked(pool, task, "calibration"), spec.sets
                    size = spec.dataset.batch_size
                    key = self.key(pool, what, asked, sets.budget, sets.seeds, sets.packed, size)
                    path = self.root / "sets" / f"{name}-{key}.json"
                    items[name] = WorkItem(path, "greedy", what)
        return items

    # -- stage 2 -----------------------------------------------------------------------------

    def dataset(self, pool: Pool) -> Path:
        """The router's data set, merged from its shards."""
        sets = list(self.sets(pool).values())
        items = [p for task in self.spec.routed() for p in self._shards(pool, task, "train", sets)]
        finish(pool, items)
        records = [record for item in items for record in item.result()]
        path = write_dataset(self.root, records)
        if told := usable(read_examples(path)).told():
            self.tell(f"dataset: {told}")
        return path

    def _shards(self, pool: Pool, task: str, role: Role, sets: Sequence[Omit]) -> list[WorkItem]:
        table, spec = self.spec.tasks[task], self.spec
        size, count = spec.dataset.shard, getattr(table.items, role)
        asked = self._asked(pool, task, role)
        key = self.key(pool, asked, sets, role, size, spec.dataset.batch_size, spec.sets.packed)
        folder = self.root / ("dataset" if role == "train" else "evaluation")
        items = []
        for first in range(0, count, size):
            what = {"task": task, "role": role, "start": first, "stop": first + size, "sets": sets}
            path = folder / f"{task}-{first:06d}-{key}.json"
            items.append(WorkItem(path, "likelihoods", what))
        return items

    # -- stage 3 -----------------------------------------------------------------------------

    def train(self, pool: Pool) -> Path:
        """The router: trained as the study says, or the best of a search over its settings."""
        dataset = self.dataset(pool)
        content = self.key(pool, pq.read_table(dataset).to_pydict())
        encoders = self.identity(pool)["encoders"]
        make = partial(self._training, str(dataset), content, encoders)
        tried, failed = search_router(self.spec, pool, make, self.tell)
        best = min(tried, key=lambda one: float(one.result()["regret"]))
        self._tell_warmup(best.result())
        record = {
            "folder": best.arguments["folder"],
            "settings": best.arguments["settings"],
            "report": best.result(),
            "tried": [
                {"settings": one.arguments["settings"], "report": one.result()} for one in tried
            ],
            "failed": failed,
        }
        write_durably(self.root / "router.json", json.dumps(record, indent=2))
        return Path(best.arguments["folder"])

    def _tell_warmup(self, report: Mapping[str, Any]) -> None:
        if report["warmup"] != self.spec.router.warmup:
            self.tell(
                f"router: a warm-up of {self.spec.router.warmup} steps is longer than the "
                f"training; shortened to a tenth of it, {report['warmup']}"
            )

    def _training(
        self, dataset: str, content: str, encoders: Mapping[str, str], settings: RouterSpec
    ) -> WorkItem:
        plain = settings.model_dump()
        key = digest({**plain, "encoder": encoders[settings.encoder]}, content)
        folder = self.root / "routers" / key
        what = {"settings": plain, "dataset": dataset, "folder": str(folder)}
        return WorkItem(folder.with_suffix(".json"), "train", what)

    # -- stage 4 -----------------------------------------------------------------------------

    def evaluation(self, pool: Pool) -> Evaluation:
        """Every way of choosing a set, on items nobody learned from."""
        router, sets = self.train(pool), [*self.sets(pool).values(), ()]
        shards = {task: self._shards(pool, task, "held_out", sets) for task in self.spec.tasks}
        finish(pool, [item for items in shards.values() for item in items])
        judged = [
            judge(record, self.spec.tasks[task].normalised)
            for task, items in shards.items()
            for item in items
            for record in item.result()
        ]
        prompts = [one.prompt for one in judged]
        chosen = self._one(pool, "choose", router=str(router), prompts=prompts)
        training = pq.read_table(self.root / "router.parquet")["likelihood"].to_pylist()
        found = evaluate(judged, chosen, training)
        found.harness = self._harness(pool, router, sets, by_training(training))
        if told := found.told():
            self.tell(f"evaluation: {told}")
        write_durably(self.root / "evaluation.json", json.dumps(asdict(found), indent=2))
        return found

    def _harness(
        self, pool: Pool, router: Path, sets: Sequence[Omit], fixed: Mapping[str, int]
    ) -> dict[str, dict[str, float]]:
        """The same ways of choosing by the tasks of lm-evaluation-harness, if there are any."""
        contents: dict[str, str] = self.identity(pool)["harness"]
        under = {
            task: [self._answers(pool, task, content, omit) for omit in sets]
            for task, content in contents.items()
        }
        finish(pool, [item for items in under.values() for item in items])
        asked = {task: [item.result() for item in items] for task, items in under.items()}
        tasks = {}
        for task, answers in asked.items():
            prompts = [one["prompt"] for one in answers[0]]
            chosen = self._one(pool, "choose", router=str(router), prompts=prompts)
            tasks[task] = Asked(answers, chosen)
        return harness_rows(tasks, fixed) if tasks else {}

    def _answers(self, pool: Pool, task: str, content: str, omit: Omit) -> WorkItem:
        wanted, size = self.spec.evaluation, self.spec.dataset.batch_size
        key = self.key(pool, content, omit, wanted.questions, wanted.max_length, size)
        path = self.root / "evaluation" / f"harness-{task.replace('/', '_')}-{key}.json"
        return WorkItem(path, "harness", {"task": task, "omit": omit})

    def timing(self, pool: Pool) -> dict[str, float]:
        """Seconds and bytes; measured once, as it is never the same twice."""
        sets, router = list(self.sets(pool).values()), self.train(pool)
        prompts = self._prompts(pool, sets)
        found: dict[str, float] = self._one(
            pool, "timing", router=str(router), sets=sets, prompts=prompts
        )
        return found

    def _prompts(self, pool: Pool, sets: Sequence[Omit]) -> list[str]:
        """Held-out prompts of all tasks in turn."""
        shards = [self._shards(pool, task, "held_out", [*sets, ()]) for task in self.spec.tasks]
        columns = [[record["prompt"] for record in items[0].result()] for items in shards]
        turns = [prompt for row in zip_longest(*columns) for prompt in row if prompt is not None]
        return turns[: self.spec.evaluation.prompts]

    def _one(self, pool: Pool, method: str, **arguments: Any) -> Any:
        """A single piece, named after all it depends on."""
        path = self.root / "evaluation" / f"{method}-{self.key(pool, arguments)}.json"
        item = WorkItem(path, method, arguments)
        finish(pool, [item])
        return item.result()


def _spread(spec: RouteSpec, pool: Pool, item: WorkItem) -> None:
    """One greedy search whose candidates are shared out over all workers."""
    if item.done:
        return
    [shape] = pool.call("shape", [{}])

    def score(sets: Sequence[Omit]) -> list[float]:
        size = -(-len(sets) // pool.workers)
        shares = [sets[i : i + size] for i in range(0, len(sets), size)]
        found = pool.call("losses", [{**item.arguments, "sets": share} for share in shares])
        return [loss for share in found for loss in share]

    found = greedy(shape["blocks"], spec.sets.budget, score, fixed=shape["fixed"])
    record = {"order": list(found.order), "losses": list(found.losses)}
    write_durably(item.path, json.dumps(record))


def write_dataset(root: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Stage 2's files: Parquet for the router, and the published tool's all_log.csv."""
    columns = ["item", "task", "prompt", "likelihood"]
    table = pa.table({name: [record[name] for record in records] for name in columns})
    path = root / "router.parquet"
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)
    with (root / "all_log.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["inputs", "likelihood", "dataset", "idx"])
        for record in records:
            number = record["item"].rpartition("/")[2]
            rows.writerow([record["prompt"], record["likelihood"], record["task"], number])
    return path
