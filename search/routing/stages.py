"""The four stages of a routing study (PuDDing): sets, data set, router, evaluation.

    runs/<study>/sets/        one file per greedy search        -> sets.csv
    runs/<study>/dataset/     one file per shard of items       -> router.parquet, all_log.csv
    runs/<study>/routers/     one folder per training           -> router.json
    runs/<study>/evaluation/  one file per shard of items       -> evaluation.json

Each stage runs what it needs of those before. All pieces are durable and named after what they
depend on, so that an interrupted or repeated command does only what is missing, and other settings
start afresh.
"""

import csv
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from search.engine.pool import Pool, Tell, WorkItem, finish
from search.errors import StudyError
from search.routing.evaluation import Evaluation, evaluate, judge
from search.study.load import resolved
from search.study.messages import explain
from spaces.router import start, vary
from trainables.core.cache import digest, write_durably
from trainables.core.errors import UserError
from trainables.core.spec import Role
from trainables.omission.searches import Omit, diverse, greedy, read_sets, write_sets
from trainables.routing.spec import RouterSpec, RouteSpec


def load_route(path: Path, overrides: Mapping[str, Any] | None = None) -> RouteSpec:
    """Read and check a routing study's file.

    Args:
        overrides: "table.key" -> value in place of the file's; None leaves it. Another
            `sets.budget` makes it another study, named after the budget.
    """
    if not path.is_file():
        raise UserError("no such study file", got=str(path))
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        for key, value in (overrides or {}).items():
            table, _, name = key.rpartition(".")
            if value is not None:
                (tables.setdefault(table, {}) if table else tables)[name] = value
            if value is not None and key == "sets.budget":
                tables["name"] = f"{tables.get('name', path.stem)}-k{value}"
        return _absolute(RouteSpec.model_validate_json(json.dumps(tables), strict=True))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise StudyError(str(path), explain(error, RouteSpec)) from None


def _absolute(spec: RouteSpec) -> RouteSpec:
    """Local paths made absolute, as workers run in other folders."""
    sets, router = spec.sets, spec.router
    file = str(Path(sets.file).expanduser().absolute()) if sets.file else None
    return spec.model_copy(
        update={
            "folder": str(Path(spec.folder).expanduser().absolute()),
            "model": spec.model.model_copy(update={"id": resolved(spec.model.id)}),
            "router": router.model_copy(update={"encoder": resolved(router.encoder)}),
            "sets": sets.model_copy(update={"file": file}),
            "tasks": {
                name: task.model_copy(update={"dataset": resolved(task.dataset)})
                for name, task in spec.tasks.items()
            },
        }
    )


@dataclass
class Route:
    """A routing study and its folder."""

    spec: RouteSpec
    tell: Tell = lambda text: None

    @property
    def root(self) -> Path:
        return Path(self.spec.folder) / self.spec.name

    def key(self, *parts: Any) -> str:
        """What a piece depends on, in 16 hex digits."""
        return digest(self.spec.model.model_dump(), self.spec.seed, *parts)

    # -- stage 1 -----------------------------------------------------------------------------

    def sets(self, pool: Pool) -> dict[str, Omit]:
        """The omission sets: read from the study's file, or searched for."""
        wanted = self.spec.sets
        if wanted.file:
            found = diverse(read_sets(Path(wanted.file)), wanted.wanted)
        else:
            pieces = self._searches()
            if wanted.spread:
                for name, piece in pieces.items():
                    self.tell(f"sets: {name}")
                    _spread(self.spec, pool, piece)
            finish(pool, list(pieces.values()))
            orders = {name: tuple(piece.result()["order"]) for name, piece in pieces.items()}
            found = diverse(orders, wanted.wanted)
        self.root.mkdir(parents=True, exist_ok=True)
        write_sets(self.root / "sets.csv", found)
        return found

    def _searches(self) -> dict[str, WorkItem]:
        spec, pieces = self.spec, {}
        for task in spec.routed():
            for loss in spec.sets.losses:
                for seed in range(spec.sets.seeds):
                    what = {"task": task, "loss": loss, "seed": seed}
                    name = f"{task}-{loss}" + (f"-{seed}" if spec.sets.seeds > 1 else "")
                    table, sets = spec.tasks[task].model_dump(), spec.sets
                    key = self.key(what, table, sets.budget, sets.seeds, sets.packed)
                    path = self.root / "sets" / f"{name}-{key}.json"
                    pieces[name] = WorkItem(path, "greedy", what)
        return pieces

    # -- stage 2 -----------------------------------------------------------------------------

    def dataset(self, pool: Pool) -> Path:
        """The router's data set, merged from its shards."""
        sets = list(self.sets(pool).values())
        pieces = [p for task in self.spec.routed() for p in self._shards(task, "train", sets)]
        finish(pool, pieces)
        records = [record for piece in pieces for record in piece.result()]
        return write_dataset(self.root, records)

    def _shards(self, task: str, role: Role, sets: Sequence[Omit]) -> list[WorkItem]:
        table, spec = self.spec.tasks[task], self.spec
        size, count = spec.dataset.shard, getattr(table.items, role)
        key = self.key(table.model_dump(), sets, role, size, spec.dataset.batch_size)
        folder = self.root / ("dataset" if role == "train" else "evaluation")
        pieces = []
        for first in range(0, count, size):
            what = {"task": task, "role": role, "start": first, "stop": first + size, "sets": sets}
            path = folder / f"{task}-{first:06d}-{key}.json"
            pieces.append(WorkItem(path, "likelihoods", what))
        return pieces

    # -- stage 3 -----------------------------------------------------------------------------

    def train(self, pool: Pool) -> Path:
        """The router: trained as the study says, or the best of a search over its settings."""
        dataset = self.dataset(pool)
        content = digest(pq.read_table(dataset).to_pydict())
        make = partial(self._training, str(dataset), content)
        tried = search_router(self.spec, pool, make)
        best = min(tried, key=lambda one: float(one.result()["regret"]))
        record = {
            "folder": best.arguments["folder"],
            "settings": best.arguments["settings"],
            "report": best.result(),
            "tried": [
                {"settings": one.arguments["settings"], "report": one.result()} for one in tried
            ],
        }
        write_durably(self.root / "router.json", json.dumps(record, indent=2))
        return Path(best.arguments["folder"])

    def _training(self, dataset: str, content: str, settings: RouterSpec) -> WorkItem:
        plain = settings.model_dump()
        folder = self.root / "routers" / digest(plain, content)
        what = {"settings": plain, "dataset": dataset, "folder": str(folder)}
        return WorkItem(folder.with_suffix(".json"), "train", what)

    # -- stage 4 -----------------------------------------------------------------------------

    def evaluation(self, pool: Pool) -> Evaluation:
        """Every way of choosing a set, on items nobody learned from."""
        router, sets = self.train(pool), [*self.sets(pool).values(), ()]
        shards = {task: self._shards(task, "held_out", sets) for task in self.spec.tasks}
        finish(pool, [piece for pieces in shards.values() for piece in pieces])
        items = [
            judge(record, self.spec.tasks[task].normalised)
            for task, pieces in shards.items()
            for piece in pieces
            for record in piece.result()
        ]
        chosen = self._one(pool, "choose", router=str(router), prompts=[i.prompt for i in items])
        training = pq.read_table(self.root / "router.parquet")["likelihood"].to_pylist()
        found = evaluate(items, chosen, training)
        write_durably(self.root / "evaluation.json", json.dumps(asdict(found), indent=2))
        return found

    def timing(self, pool: Pool) -> dict[str, float]:
        """Seconds and bytes; measured once, as it is never the same twice."""
        sets, router = list(self.sets(pool).values()), self.train(pool)
        prompts = self._prompts(sets)
        found: dict[str, float] = self._one(
            pool, "timing", router=str(router), sets=sets, prompts=prompts
        )
        return found

    def _prompts(self, sets: Sequence[Omit]) -> list[str]:
        """Held-out prompts of all tasks in turn."""
        first = [self._shards(task, "held_out", [*sets, ()])[0] for task in self.spec.tasks]
        columns = [[record["prompt"] for record in piece.result()] for piece in first]
        turns = [prompt for row in zip_longest(*columns) for prompt in row if prompt is not None]
        return turns[: self.spec.evaluation.prompts]

    def _one(self, pool: Pool, method: str, **arguments: Any) -> Any:
        """A single piece, named after all it depends on."""
        path = self.root / "evaluation" / f"{method}-{self.key(arguments)}.json"
        piece = WorkItem(path, method, arguments)
        finish(pool, [piece])
        return piece.result()


def _spread(spec: RouteSpec, pool: Pool, piece: WorkItem) -> None:
    """One greedy search whose candidates are shared out over all workers."""
    if piece.done:
        return
    [shape] = pool.call("shape", [{}])

    def score(sets: Sequence[Omit]) -> list[float]:
        size = -(-len(sets) // pool.workers)
        shares = [sets[i : i + size] for i in range(0, len(sets), size)]
        found = pool.call("losses", [{**piece.arguments, "sets": share} for share in shares])
        return [loss for share in found for loss in share]

    found = greedy(shape["blocks"], spec.sets.budget, score, fixed=shape["fixed"])
    record = {"order": list(found.order), "losses": list(found.losses)}
    write_durably(piece.path, json.dumps(record))


def search_router(
    spec: RouteSpec, pool: Pool, make: Callable[[RouterSpec], WorkItem]
) -> list[WorkItem]:
    """Train routers with the settings Optuna proposes, the study's own first.

    The proposals depend on the seed and on earlier reports only, and reports are durable: after an
    interruption the same search is repeated, and finds its trainings done.
    """
    if spec.search.trials <= 1:
        piece = make(spec.router)
        finish(pool, [piece])
        return [piece]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=spec.seed, n_startup_trials=4)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(start(spec.router, encoders=spec.search.encoders))
    tried: list[WorkItem] = []
    while len(tried) < spec.search.trials:
        size = min(pool.workers, spec.search.trials - len(tried))
        asked = [study.ask() for _ in range(size)]
        pieces = [make(vary(t, spec.router, encoders=spec.search.encoders)) for t in asked]
        finish(pool, list({piece.path: piece for piece in pieces}.values()))
        for trial, piece in zip(asked, pieces, strict=True):
            study.tell(trial, float(piece.result()["regret"]))
        tried += pieces
    return tried


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


def export_route(route: Route, pool: Pool, to: Path) -> list[str]:
    """Save the routed model, load it again, and let it write; returns what it wrote."""
    from trainables.routing.routed_model import RoutedModel
    from trainables.routing.router import Router
    from trainables.routing.worker import RouteWork

    sets, folder = list(route.sets(pool).values()), route.train(pool)
    work = RouteWork(route.spec)
    model = RoutedModel(work.model, work.tokenizer, Router.load(folder), sets)
    model.save(to)
    prompts = [
        item.prompt for task in route.spec.tasks for item in work.items(task, "held_out")[:2]
    ]
    before = model.generate(prompts, max_new_tokens=8)
    after = RoutedModel.load(to, dtype=route.spec.model.dtype).generate(prompts, max_new_tokens=8)
    if before != after:
        raise UserError(f"{to}: the saved model writes something else than the one in memory")
    return [f"{prompt} → {text}" for prompt, text in zip(prompts, after, strict=True)]
