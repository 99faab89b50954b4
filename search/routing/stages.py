"""The four stages of a routing study (PuDDing): sets, data set, routers, evaluation.

    runs/<study>/sets/        one file per greedy search        -> sets.csv
    runs/<study>/dataset/     one file per shard of items       -> router.parquet, all_log.csv
    runs/<study>/routers/     one folder per training; its record lies in results/
    runs/<study>/evaluation/  one file per shard of items       -> evaluation.json

The stages are a program (`search.engine.pieces`): their pieces are done by Ray Tune's warm workers,
as trials are. All pieces are named after what they depend on, by its content, so that an
interrupted or repeated command does only what is missing, and other settings, data or weights start
afresh.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search.engine.dispatch import Nobody, Tell
from search.engine.pieces import Piece, Pieces, Program, do_here, finished, together
from search.engine.ray_session import ray_cluster, refuse_lost_folder
from search.engine.tune import place_of, run_tune
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
ALL = 4  # stages


def run_route(spec: RouteSpec, tell: Tell = lambda text: None, stages: int = ALL) -> "Route":
    """Run the first stages of a study, or all; what they came to is what is returned."""
    study = as_study(spec)
    store = Store.of(study)
    refuse_lost_folder(store.folder)
    with study_lock(store) as driver, opened_log(study, driver) as log:
        route = Route(spec, log, tell)
        program = route.run(stages)
        work = Pieces(log.store.root, program, Nobody(tell), on_end=log.mirror.offer)
        if spec.resources.workers:
            _on_ray(study, work, tell)
        else:
            do_here(work, partial(_worker, spec))
    return route


def _worker(spec: RouteSpec) -> Any:
    from trainables.routing.worker import RouteWork

    return RouteWork(spec)


def _on_ray(study: Study, work: Pieces, tell: Tell) -> None:
    with ray_cluster(study.resources, tell) as work.places:
        from trainables.worker import RouteTrial

        place = place_of(Store.of(study), work.root)
        run_tune(study, RouteTrial, {"spec": study.route, "space": None, "place": place}, work)
    if work.error is not None:
        raise work.error
    if not work.over:
        raise KeyboardInterrupt


def run_stages(study: Study, tell: Tell) -> list[str]:
    """All stages of a study; returns what they come to, in words."""
    assert study.route is not None
    found = run_route(study.route, tell).evaluation["budgets"]
    return [judging.verdict(each["rows"], budget) for budget, each in found.items()]


@dataclass
class Route:
    """A routing study that runs.

    Attributes:
        identity: what the model, the code, the encoders and the tasks' questions are.
        sets: those that routers choose from, budget by budget.
        items: the training items under them, and as they are learned from (`taught`).
        routers: the best one of every budget.
        evaluation: every way of choosing a set, on items nobody learned from: per budget `rows` and
            where the router's prompts go.
        speeds: of the routed model of every budget.
    """

    spec: RouteSpec
    log: Log
    tell: Tell
    identity: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Omit] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    taught: Answers = field(init=False)
    routers: dict[int, Trained] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    speeds: dict[int, judging.Row] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.log.store.root

    @property
    def dataset(self) -> Path:
        """The routers' data set: what every choice scores under every set."""
        return self.root / "router.parquet"

    @property
    def budgets(self) -> dict[int, list[int]]:
        """By how many blocks they omit, which of the sets do."""
        sizes = [len(omit) for omit in self.sets.values()]
        return {n: [at for at, size in enumerate(sizes) if size == n] for n in sorted({*sizes})}

    def run(self, stages: int) -> Program[None]:
        """The first stages, one after the other."""
        look = Piece(self.root / "identity.json", "identity")
        look.path.unlink(missing_ok=True)  # as it is now
        [self.identity] = yield from finished([look])
        known = {name: self.identity[name] for name in ("model", "encoders", "tasks", "harness")}
        self.log.begin(digest(self.spec.model_dump(exclude={"resources", "folder"}), known))
        for stage in (self._find, self._ask, self._train, self._evaluate)[:stages]:
            yield from stage()

    def key(self, *parts: Any) -> str:
        """What a piece depends on, in 16 hex digits."""
        return digest(self.identity["model"], self.spec.seed, *parts)

    def _asked(self, task: str, role: Role) -> list[Any]:
        """A task's questions in a role, how they are cut, and how they go through the model."""
        spec, table = self.spec, self.spec.tasks[task]
        asked = self.identity["tasks"][task][role]
        return [asked, table.max_length, spec.dataset.batch_size, spec.sets.packed]

    # -- stage 1 -----------------------------------------------------------------------------

    def _find(self) -> Program[None]:
        """The omission sets, read or searched for; of several budgets each its own."""
        wanted = self.spec.sets
        known = yield from self._candidates()
        if wanted.choose == "complement":
            self.items = yield from self._scored("dataset", "train", list(known.values()))
        for size in sorted({len(omit) for omit in known.values()}):
            of_size = {name: omit for name, omit in known.items() if len(omit) == size}
            self.sets |= self._chosen(of_size, [list(known).index(name) for name in of_size])
        if self.items:
            columns = [list(known).index(name) for name in self.sets]
            for one in self.items:
                one |= {
                    part: [one[part][at] for at in columns] for part in ("likelihood", "judged")
                }
        self.root.mkdir(parents=True, exist_ok=True)
        write_sets(self.root / "sets.csv", self.sets)
        self.log.keep("sets.csv")

    def _chosen(self, sets: Mapping[str, Omit], columns: Sequence[int]) -> dict[str, Omit]:
        """Of sets of one size, those that routers choose from."""
        if not self.items:
            return diverse(sets, self.spec.sets.wanted)
        picked = covering(Answers.of(self.items).under(columns), self.spec.sets.wanted)
        return {list(sets)[at]: list(sets.values())[at] for at in picked}

    def _candidates(self) -> Program[dict[str, Omit]]:
        """The sets of all budgets to choose from, each once."""
        wanted = self.spec.sets
        if wanted.file:
            given = read_sets(Path(wanted.file))
            return diverse(given, len(given))
        orders = {f"published-{number}": omit for number, omit in enumerate(PUBLISHED)}
        if wanted.choose != "published":
            orders = yield from self._searched()
        several, found = len(wanted.budget) > 1, dict[frozenset[int], tuple[str, Omit]]()
        for size in wanted.budget:
            for name, omit in orders.items():
                named = f"{name}-{size}" if several else name
                found.setdefault(frozenset(omit[:size]), (named, omit[:size]))
        return dict(found.values())

    def _searched(self) -> Program[dict[str, Omit]]:
        pieces = dict(self._searches())
        records = yield from finished(list(pieces.values()))
        told = [_search_record(*one) for one in zip(pieces.values(), records, strict=True)]
        self.log.tell(self.log.journal("sets", SETS), told)
        return {name: tuple(one["order"]) for name, one in zip(pieces, records, strict=True)}

    def _searches(self) -> Iterator[tuple[str, Piece]]:
        wanted = self.spec.sets
        for task in self.spec.routed():
            asked = [self._asked(task, "calibration"), max(wanted.budget), wanted.seeds]
            for loss in wanted.losses:
                for seed in range(wanted.seeds):
                    what = {"task": task, "loss": loss, "seed": seed}
                    name = f"{task}-{loss}" + (f"-{seed}" if wanted.seeds > 1 else "")
                    path = self.root / "sets" / f"{name}-{self.key(what, *asked)}.json"
                    yield name, Piece(path, "greedy", what)

    # -- stage 2 -----------------------------------------------------------------------------

    def _ask(self) -> Program[None]:
        """The routers' data set."""
        if not self.items:
            self.items = yield from self._scored("dataset", "train", list(self.sets.values()))
        write_dataset(self.dataset, self.items)
        self.log.keep(self.dataset.name, "all_log.csv")
        self.taught = Answers.of(pq.read_table(self.dataset).to_pylist())

    def _scored(
        self, folder: str, role: Role, sets: Sequence[Omit]
    ) -> Program[list[dict[str, Any]]]:
        """All items of a role under the sets."""
        size, pieces = self.spec.dataset.shard, []
        for task in self.spec.tasks if role == "held_out" else self.spec.routed():
            key = self.key(self._asked(task, role), sets, role, size)
            for first in range(0, getattr(self.spec.tasks[task].items, role), size):
                what = {"task": task, "role": role, "start": first, "stop": first + size}
                path = self.root / folder / f"{task}-{first:06d}-{key}.json"
                pieces.append(Piece(path, "likelihoods", {**what, "sets": sets}))
        found = yield from finished(pieces)
        return [item for one in found for item in one["items"]]

    # -- stage 3 -----------------------------------------------------------------------------

    def _train(self) -> Program[None]:
        """The routers."""
        content = self.key(pq.read_table(self.dataset).to_pydict())
        self.routers = yield from together(
            {
                budget: search_router(
                    self.spec,
                    self.log.journal(f"routers-{budget}", GOALS),
                    self.log.store.results,
                    self.taught.under(sets),
                    partial(self._training, sets, content),
                    self.tell,
                )
                for budget, sets in self.budgets.items()
            }
        )
        for found in self.routers.values():
            if (used := int(found.report["warmup"])) != (asked := self.spec.router.warmup):
                self.tell(
                    f"router: a warm-up of {asked} steps is longer than the training; shortened to "
                    f"a tenth of it, {used}"
                )
        told = {str(budget): asdict(one) for budget, one in self.routers.items()}
        self._keep("router.json", told)

    def _training(self, sets: Sequence[int], content: str, settings: RouterSpec) -> dict[str, Any]:
        plain = settings.model_dump()
        encoder = self.identity["encoders"][settings.encoder]
        folder = self.root / "routers" / digest({**plain, "encoder": encoder}, sets, content)
        found = {"settings": plain, "dataset": str(self.dataset), "sets": sets}
        return found | {"folder": str(folder)}

    def _keep(self, name: str, content: Any) -> None:
        """Write a file of the study's folder, for the ledger too."""
        write_durably(self.root / name, json.dumps(content, indent=2))
        self.log.keep(name)

    # -- stage 4 -----------------------------------------------------------------------------

    def _evaluate(self) -> Program[None]:
        sets = [*self.sets.values(), ()]
        records = yield from self._scored("evaluation", "held_out", sets)
        shape = yield from self._one("shape")
        held = {"": Answers.of(records)}
        if self.identity["harness"]:
            held["harness"] = yield from self._harness(sets)
        found = dict[str, Any]()
        for budget, columns in self.budgets.items():
            each = found[str(budget)] = dict[str, Any]()
            for kind, answers in held.items():
                each |= yield from self._judged(kind, answers, columns, budget, shape)
            omitted = [list(self.sets.values())[at] for at in columns]
            router, prompts = self.routers[budget].folder, self._prompts(records)
            timing = yield from self._one("timing", router=router, sets=omitted, prompts=prompts)
            self.speeds[budget] = judging.speed(timing)  # measured once: never the same twice
        self.evaluation = {"sets": self.sets, "budgets": found}
        self._keep("evaluation.json", self.evaluation)
        self._tell(shape["blocks"])

    def _judged(
        self,
        kind: str,
        held: Answers,
        columns: Sequence[int],
        budget: int,
        shape: Mapping[str, Any],
    ) -> Program[dict[str, Any]]:
        """One budget's rows on one kind of items."""
        under, dense, router = held.under(columns), held.right[:, -1], self.routers[budget].folder
        told = yield from self._one("promises", router=router, prompts=held.prompts.tolist())
        promised, kept = np.array(told["promised"]), np.array(told["chosen"])
        ways = judging.ways(self.taught.under(columns), under, promised, kept, dense)
        rows = judging.judge(ways, under, partial(self._active, shape, list(columns)))
        if kind:
            return {kind: rows}
        [way] = [one for one in ways if one.name == KEPT]
        return {"rows": rows, "shares": judging.shares(way, under)}

    def _active(self, shape: Mapping[str, Any], columns: Sequence[int], way: judging.Way) -> float:
        """Parameters that work on an average prompt, the router's included."""
        if way.name == DENSE:
            return float(shape["parameters"])
        omitted = [list(self.sets.values())[at] for at in columns]
        left = [shape["parameters"] - sum(shape["sizes"][b] for b in omit) for omit in omitted]
        chosen = range(len(left)) if way.chosen is None else way.chosen
        routed = way.name in (ROUTER, KEPT, judging.ORACLE)
        extra = shape["router"][self.spec.router.encoder] if routed else 0
        return float(np.mean([left[at] for at in chosen])) + extra

    def _harness(self, sets: Sequence[Omit]) -> Program[Answers]:
        """The same ways by the tasks of lm-evaluation-harness: a task for each of its scores."""
        wanted, size = self.spec.evaluation, self.spec.dataset.batch_size
        items = []
        for task, content in self.identity["harness"].items():
            pieces = []
            for omit in sets:
                key = self.key(content, omit, wanted.questions, wanted.max_length, size)
                path = self.root / "evaluation" / f"harness-{task.replace('/', '_')}-{key}.json"
                pieces.append(Piece(path, "harness", {"task": task, "omit": omit}))
            found = yield from finished(pieces)
            items += judging.harness_records(task, [one["answers"] for one in found])
        return Answers.of(items)

    def _prompts(self, items: Sequence[Mapping[str, Any]]) -> list[str]:
        """Held-out prompts of all tasks in turn."""
        columns = [[one["prompt"] for one in items if one["task"] == t] for t in self.spec.tasks]
        turns = [prompt for row in zip_longest(*columns) for prompt in row if prompt is not None]
        return turns[: self.spec.evaluation.prompts]

    def _one(self, method: str, **arguments: Any) -> Program[dict[str, Any]]:
        """A single piece, named after all it depends on."""
        path = self.root / "evaluation" / f"{method}-{self.key(arguments)}.json"
        [found] = yield from finished([Piece(path, method, arguments)])
        return found

    # -- what it comes to ----------------------------------------------------------------------

    @property
    def _form(self) -> str:
        """In whose words the tasks are asked: another form gives other numbers."""
        asked: dict[str, list[str]] = {}
        for name, task in self.spec.tasks.items():
            asked.setdefault(task.prompts, []).append(name)
        told = {
            form: f"{', '.join(names)} " if len(asked) > 1 else "" for form, names in asked.items()
        }
        return "; ".join(f"{names}asked as {form} asks" for form, names in told.items())

    def _tell(self, blocks: int) -> None:
        """Let the journal have all ways of choosing: those that can be served as the study's
        trials, the others as marks beside them; and the tables."""
        served: list[dict[str, Any]] = []
        marks: list[dict[str, Any]] = []
        tables, names = [], list(self.sets)
        picture = judging.picture(list(self.sets.items()), blocks)
        for budget, columns in self.budgets.items():
            each = self.evaluation["budgets"][str(budget)]
            for name, row in each["rows"].items():
                if name == DENSE and served:
                    continue
                speeds = self.speeds[budget] if name in (ROUTER, KEPT) else {}
                shown = [picture] if name == KEPT else []
                settings = {} if name == DENSE else {"blocks": budget}
                record = {"state": "complete", "metrics": row | speeds}
                record["stages"] = [step(name, settings, pictures=shown)]
                (served if name in SERVED else marks).append(record)
            title = f"{self.spec.name}, {budget} blocks omitted"
            tables.append(judging.table(each["rows"], f"{title}; {self._form}"))
            own = [names[at] for at in columns]
            tables.append(judging.shares_table(each["shares"], own, f"{title}: where prompts go"))
            if "harness" in each:
                tables.append(judging.table(each["harness"], f"{title}, lm-evaluation-harness"))
        self.log.tell(self.log.main, served)
        self.log.tell(self.log.journal("marks", {"accuracy": "max"}), marks)
        self.log.main.note("tables", tables)
        (self.root / "sets.svg").write_text(picture_svg(picture), encoding="utf-8")
        self.log.keep("sets.svg")


def _search_record(piece: Piece, found: Mapping[str, Any]) -> dict[str, Any]:
    """A finished search of sets, as a journal takes it."""
    settings = {**piece.arguments, "order": found["order"]}
    return {
        "state": "complete",
        "metrics": {"loss": found["losses"][-1]},
        "progress": [{"loss": loss} for loss in found["losses"][:-1]],
        "stages": [step("Greedy", settings, pictures=[judging.course(piece.arguments, found)])],
    }


def write_dataset(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Stage 2's files: Parquet for routers, and beside it the published tool's all_log.csv."""
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(list(items)), temporary)
    temporary.replace(path)
    with path.with_name("all_log.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["inputs", "likelihood", "dataset", "idx"])
        for one in items:
            number = one["item"].rpartition("/")[2]
            rows.writerow([one["prompt"], one["likelihood"], one["task"], number])
