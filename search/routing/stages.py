"""The four stages of a routing study (PuDDing): sets, data set, routers, evaluation.

    runs/<study>/sets/        one file per greedy search        -> sets.csv
    runs/<study>/dataset/     one file per shard of items       -> router.parquet, all_log.csv
    runs/<study>/routers/     one folder per training; its report lies in results/
    runs/<study>/evaluation/  one file per shard of items       -> evaluation.json

Each stage runs what it needs of those before. All pieces are durable and named after what they
depend on, by its content, so that an interrupted or repeated command does only what is missing,
and other settings, data or weights start afresh.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search.engine.pool import Pool, Tell, WorkItem, finish, open_pool
from search.engine.ray_session import refuse_lost_folder
from search.journal.lock import study_lock
from search.journal.store import Store
from search.report.pictures import picture_svg
from search.routing import evaluation as judging
from search.routing.log import Log, opened_log, step
from search.routing.routers import GOALS, Trained, search_router
from search.study.routing import as_study
from search.study.schema import Study
from trainables.core.cache import digest, write_durably
from trainables.core.spec import Role
from trainables.omission.searches import PUBLISHED, Omit, diverse, read_sets, write_sets
from trainables.routing.answers import Answers, covering
from trainables.routing.spec import DENSE, KEPT, ROUTER, SERVED, RouterSpec, RouteSpec

SETS = {"loss": "min"}  # what searches of sets go by


def make_worker(spec: RouteSpec) -> object:
    """A worker of the study, in the process that calls this."""
    from trainables.routing.worker import RouteWork

    return RouteWork(spec)


@contextmanager
def opened(spec: RouteSpec, tell: Tell = lambda text: None) -> Iterator["Route"]:
    """The study, its journal and its workers, while nobody else runs it."""
    study = as_study(spec)
    refuse_lost_folder(Store.of(study).folder)
    wanted = study.resources if spec.resources.workers else None
    with (
        study_lock(Store.of(study)) as driver,
        opened_log(study, driver) as log,
        open_pool(partial(make_worker, spec), wanted, tell) as pool,
    ):
        route = Route(spec, pool, log, tell)
        log.begin(digest(spec.model_dump(exclude={"resources", "folder"}), route.identity))
        yield route


def run_stages(study: Study, tell: Tell) -> list[str]:
    """All stages of a study; returns what they come to, in words."""
    assert study.route is not None
    with opened(study.route, tell) as route:
        found = route.evaluation["budgets"]
    return [judging.verdict(each["rows"], budget) for budget, each in found.items()]


@dataclass
class Route:
    """A routing study that runs."""

    spec: RouteSpec
    pool: Pool
    log: Log
    tell: Tell = lambda text: None

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.log.store.root

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the model, the code, the encoders and the tasks' questions are."""
        found: dict[str, Any] = self.pool.call("identity")
        return found

    def key(self, *parts: Any) -> str:
        """What a piece depends on, in 16 hex digits."""
        return digest(self.identity["model"], self.spec.seed, *parts)

    def _asked(self, task: str, role: Role) -> list[Any]:
        """A task's questions in a role, how they are cut, and how they go through the model."""
        spec, table = self.spec, self.spec.tasks[task]
        asked = self.identity["tasks"][task][role]
        return [asked, table.max_length, spec.dataset.batch_size, spec.sets.packed]

    # -- stage 1 -----------------------------------------------------------------------------

    @cached_property
    def candidates(self) -> dict[str, Omit]:
        """The omission sets of all budgets to choose from, each once: read, or searched for."""
        wanted = self.spec.sets
        if wanted.file:
            given = read_sets(Path(wanted.file))
            return diverse(given, len(given))
        orders = {f"published-{number}": omit for number, omit in enumerate(PUBLISHED)}
        if wanted.choose != "published":
            orders = self._searched()
        several = len(wanted.budget) > 1
        found = {
            f"{name}-{size}" if several else name: omit[:size]
            for size in wanted.budget
            for name, omit in orders.items()
        }
        unique: dict[frozenset[int], str] = {}
        for name, omit in found.items():
            unique.setdefault(frozenset(omit), name)
        return {name: found[name] for name in unique.values()}

    def _searched(self) -> dict[str, Omit]:
        items = self._searches()
        finish(self.pool, list(items.values()))
        journal = self.log.journal("sets", SETS)
        self.log.tell(journal, [_search_record(item) for item in items.values()])
        return {name: tuple(item.result()["order"]) for name, item in items.items()}

    def _searches(self) -> dict[str, WorkItem]:
        spec, items = self.spec, {}
        for task in spec.routed():
            for loss in spec.sets.losses:
                for seed in range(spec.sets.seeds):
                    what = {"task": task, "loss": loss, "seed": seed}
                    name = f"{task}-{loss}" + (f"-{seed}" if spec.sets.seeds > 1 else "")
                    asked, most = self._asked(task, "calibration"), max(spec.sets.budget)
                    key = self.key(what, asked, most, spec.sets.seeds)
                    items[name] = WorkItem(
                        self.root / "sets" / f"{name}-{key}.json", "greedy", what
                    )
        return items

    @cached_property
    def sets(self) -> dict[str, Omit]:
        """Those that routers choose from, budget by budget."""
        wanted, found = self.spec.sets, dict[str, Omit]()
        for size in sorted({len(omit) for omit in self.candidates.values()}):
            of_size = {name: omit for name, omit in self.candidates.items() if len(omit) == size}
            if wanted.choose == "complement":
                columns = [list(self.candidates).index(name) for name in of_size]
                picked = covering(Answers.of(self._taught).under(columns), wanted.wanted)
                found |= {list(of_size)[at]: list(of_size.values())[at] for at in picked}
            else:
                found |= diverse(of_size, wanted.wanted)
        self.root.mkdir(parents=True, exist_ok=True)
        write_sets(self.root / "sets.csv", found)
        self.log.keep("sets.csv")
        return found

    @property
    def budgets(self) -> dict[int, list[int]]:
        """By how many blocks they omit, which of the sets do."""
        sizes = [len(omit) for omit in self.sets.values()]
        return {
            one: [at for at, size in enumerate(sizes) if size == one] for one in sorted({*sizes})
        }

    # -- stage 2 -----------------------------------------------------------------------------

    @cached_property
    def _taught(self) -> list[dict[str, Any]]:
        """The training items under those sets that have to be known."""
        scored = self.candidates if self._scores_all else self.sets
        tasks = self.spec.routed()
        return self._scored("dataset", "train", tasks, list(scored.values()))

    def _scored(
        self, folder: str, role: Role, tasks: Sequence[str], sets: Sequence[Omit]
    ) -> list[dict[str, Any]]:
        """All items of a role under the sets."""
        size, items = self.spec.dataset.shard, []
        for task in tasks:
            key = self.key(self._asked(task, role), sets, role, size)
            for first in range(0, getattr(self.spec.tasks[task].items, role), size):
                what = {"task": task, "role": role, "start": first, "stop": first + size}
                path = self.root / folder / f"{task}-{first:06d}-{key}.json"
                items.append(WorkItem(path, "likelihoods", {**what, "sets": sets}))
        finish(self.pool, items)
        return [record for item in items for record in item.result()]

    @cached_property
    def dataset(self) -> Path:
        """The routers' data set: what every choice scores under every set."""
        records, known = self._taught, list(self.candidates if self._scores_all else self.sets)
        columns = [known.index(name) for name in self.sets]
        kept = [
            {
                **one,
                **{part: [one[part][at] for at in columns] for part in ("likelihood", "judged")},
            }
            for one in records
        ]
        path = self.root / "router.parquet"
        write_dataset(path, kept)
        self.log.keep(path.name, "all_log.csv")
        return path

    @property
    def _scores_all(self) -> bool:
        return self.spec.sets.choose == "complement"

    @cached_property
    def taught(self) -> Answers:
        """The same, as it is learned from."""
        return Answers.of(pq.read_table(self.dataset).to_pylist())

    # -- stage 3 -----------------------------------------------------------------------------

    @cached_property
    def routers(self) -> dict[int, Trained]:
        """The best router of every budget."""
        content = self.key(pq.read_table(self.dataset).to_pydict())
        found = {}
        for budget, sets in self.budgets.items():
            journal = self.log.journal(f"routers-{budget}", GOALS)
            make = partial(self._training, sets, content)
            answers, results = self.taught.under(sets), self.log.store.results
            found[budget] = search_router(
                self.spec, self.pool, journal, results, answers, make, self.tell
            )
            self.log.offer()
            if (used := int(found[budget].report["warmup"])) != self.spec.router.warmup:
                self.tell(
                    f"router: a warm-up of {self.spec.router.warmup} steps is longer than the "
                    f"training; shortened to a tenth of it, {used}"
                )
        told = {str(budget): asdict(one) for budget, one in found.items()}
        write_durably(self.root / "router.json", json.dumps(told, indent=2))
        self.log.keep("router.json")
        return found

    def _training(self, sets: Sequence[int], content: str, settings: RouterSpec) -> dict[str, Any]:
        plain = settings.model_dump()
        encoder = self.identity["encoders"][settings.encoder]
        folder = self.root / "routers" / digest({**plain, "encoder": encoder}, sets, content)
        return {
            "settings": plain,
            "dataset": str(self.dataset),
            "sets": sets,
            "folder": str(folder),
        }

    # -- stage 4 -----------------------------------------------------------------------------

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """Every way of choosing a set, on items nobody learned from: per budget `rows` and where
        the router's prompts go."""
        routers, sets = self.routers, [*self.sets.values(), ()]
        records = self._scored("evaluation", "held_out", list(self.spec.tasks), sets)
        held = {"": Answers.of(records)}
        if self.identity["harness"]:
            held["harness"] = self._harness(sets)
        found: dict[str, Any] = {"sets": self.sets, "budgets": {}}
        for budget, columns in self.budgets.items():
            each: dict[str, Any] = {}
            for kind, answers in held.items():
                each |= self._judged(kind, answers, columns, routers[budget])
            found["budgets"][str(budget)] = each
        write_durably(self.root / "evaluation.json", json.dumps(found, indent=2))
        self.log.keep("evaluation.json")
        self._tell(found)
        return found

    def _judged(
        self, kind: str, held: Answers, columns: Sequence[int], router: Trained
    ) -> dict[str, Any]:
        """One budget's rows on one kind of items."""
        under, dense = held.under(columns), held.right[:, -1]
        prompts = held.prompts.tolist()
        told = self._one("promises", router=router.folder, prompts=prompts)
        promised, kept = np.array(told["promised"]), np.array(told["chosen"])
        ways = judging.ways(self.taught.under(columns), under, promised, kept, dense)
        rows = judging.judge(ways, under, partial(self._active, list(columns)))
        if kind:
            return {kind: rows}
        [way] = [one for one in ways if one.name == KEPT]
        return {"rows": rows, "shares": judging.shares(way, under)}

    def _active(self, columns: Sequence[int], way: judging.Way) -> float:
        """Parameters that work on an average prompt, the router's included."""
        shape = self._one("shape")
        if way.name == DENSE:
            return float(shape["parameters"])
        omitted = [list(self.sets.values())[at] for at in columns]
        left = [shape["parameters"] - sum(shape["sizes"][b] for b in omit) for omit in omitted]
        chosen = range(len(left)) if way.chosen is None else way.chosen
        routed = way.name in (ROUTER, KEPT, judging.ORACLE)
        extra = shape["router"][self.spec.router.encoder] if routed else 0
        return float(np.mean([left[at] for at in chosen])) + extra

    def _harness(self, sets: Sequence[Omit]) -> Answers:
        """The same ways by the tasks of lm-evaluation-harness: a task for each of its scores."""
        wanted, size = self.spec.evaluation, self.spec.dataset.batch_size
        records = []
        for task, content in self.identity["harness"].items():
            items = []
            for omit in sets:
                key = self.key(content, omit, wanted.questions, wanted.max_length, size)
                path = self.root / "evaluation" / f"harness-{task.replace('/', '_')}-{key}.json"
                items.append(WorkItem(path, "harness", {"task": task, "omit": omit}))
            finish(self.pool, items)
            records += judging.harness_records(task, [item.result() for item in items])
        return Answers.of(records)

    def timing(self, budget: int) -> dict[str, float]:
        """Seconds and bytes; measured once, as it is never the same twice."""
        sets = [list(self.sets.values())[at] for at in self.budgets[budget]]
        prompts = self._prompts([*self.sets.values(), ()])
        router = self.routers[budget].folder
        found = self._one("timing", router=router, sets=sets, prompts=prompts)
        return judging.speed(found)

    def _prompts(self, sets: Sequence[Omit]) -> list[str]:
        """Held-out prompts of all tasks in turn."""
        records = self._scored("evaluation", "held_out", list(self.spec.tasks), sets)
        columns = [[one["prompt"] for one in records if one["task"] == t] for t in self.spec.tasks]
        turns = [prompt for row in zip_longest(*columns) for prompt in row if prompt is not None]
        return turns[: self.spec.evaluation.prompts]

    def _one(self, method: str, **arguments: Any) -> Any:
        """A single piece, named after all it depends on."""
        path = self.root / "evaluation" / f"{method}-{self.key(arguments)}.json"
        item = WorkItem(path, method, arguments)
        finish(self.pool, [item])
        return item.result()

    # -- what it comes to ----------------------------------------------------------------------

    @property
    def _form(self) -> str:
        """In whose words the tasks are asked: another form gives other numbers."""
        asked: dict[str, list[str]] = {}
        for name, task in self.spec.tasks.items():
            asked.setdefault(task.prompts, []).append(name)
        if len(asked) == 1:
            return f"asked as {next(iter(asked))} asks"
        return "; ".join(
            f"{', '.join(names)} asked as {form} asks" for form, names in asked.items()
        )

    def _tell(self, found: Mapping[str, Any]) -> None:
        """Let the journal have all ways of choosing: those that can be served as the study's
        trials, the others as marks beside them; and the tables."""
        served: list[dict[str, Any]] = []
        marks: list[dict[str, Any]] = []
        tables, names = [], list(self.sets)
        picture = judging.picture(list(self.sets.items()), self._one("shape")["blocks"])
        for budget, each in found["budgets"].items():
            timing = self.timing(int(budget))
            for name, row in each["rows"].items():
                if name == DENSE and served:
                    continue
                routed = name in (ROUTER, KEPT)
                shown = [picture] if name == KEPT else []
                settings = {} if name == DENSE else {"blocks": int(budget)}
                metrics = row | (timing if routed else {})
                record = {"state": "complete", "metrics": metrics}
                record["stages"] = [step(name, settings, pictures=shown)]
                (served if name in SERVED else marks).append(record)
            title = f"{self.spec.name}, {budget} blocks omitted"
            tables.append(judging.table(each["rows"], f"{title}; {self._form}"))
            own = [names[at] for at in self.budgets[int(budget)]]
            tables.append(judging.shares_table(each["shares"], own, f"{title}: where prompts go"))
            if "harness" in each:
                tables.append(judging.table(each["harness"], f"{title}, lm-evaluation-harness"))
        self.log.tell(self.log.main, served)
        self.log.tell(self.log.journal("marks", {"accuracy": "max"}), marks)
        self.log.main.note("tables", tables)
        (self.root / "sets.svg").write_text(picture_svg(picture), encoding="utf-8")
        self.log.keep("sets.svg")


def _search_record(item: WorkItem) -> dict[str, Any]:
    """A finished search of sets, as a journal takes it."""
    found = item.result()
    progress = [{"loss": loss} for loss in found["losses"]]
    settings = {**item.arguments, "order": found["order"]}
    return {
        "state": "complete",
        "metrics": {"loss": found["losses"][-1]},
        "progress": progress[:-1],
        "stages": [step("Greedy", settings, pictures=[judging.course(item.arguments, found)])],
    }


def write_dataset(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Stage 2's files: Parquet for routers, and beside it the published tool's all_log.csv."""
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(list(records)), temporary)
    temporary.replace(path)
    with path.with_name("all_log.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["inputs", "likelihood", "dataset", "idx"])
        for record in records:
            number = record["item"].rpartition("/")[2]
            rows.writerow([record["prompt"], record["likelihood"], record["task"], number])
