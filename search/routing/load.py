"""Reads a routing study's file, as any study file is read: checked, local paths absolute."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.errors import StudyError
from search.journal.store import Store
from search.study.checks import harness_missing, source_problems
from search.study.load import parse_tables, read_text, resolved, resolved_tasks
from search.study.messages import explain
from search.study.schema import TAKEN, Resources
from trainables.core.errors import UserError
from trainables.routing.spec import RouteSpec


def load_route(path: Path, overrides: Mapping[str, Any] | None = None) -> RouteSpec:
    """Read and check a routing study's file.

    Args:
        overrides: "table.key" -> value in place of the file's; None leaves it. Another
            `sets.budget` makes it another study, named after the budget.
    """
    tables = parse_tables(read_text(path), str(path))
    for key, value in (overrides or {}).items():
        table, _, name = key.rpartition(".")
        if value is not None:
            (tables.setdefault(table, {}) if table else tables)[name] = value
        if value is not None and key == "sets.budget":
            tables["name"] = f"{tables.get('name', path.stem)}-k{value}"
    if "space" in tables and "tasks" not in tables:
        raise UserError(f"{path}: no routing study", do=f"rayduce launch {path}")
    try:
        spec = RouteSpec.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        raise StudyError(str(path), explain(error, RouteSpec)) from None
    if found := list(_problems(spec)):
        raise StudyError(str(path), found)
    return _absolute(spec)


def store_of(spec: RouteSpec) -> Store:
    """Where the study's results lie."""
    return Store(Path(spec.folder), spec.name)


def resources_of(spec: RouteSpec) -> Resources | None:
    """What its workers get; None for none, where all is done in this process."""
    wanted = spec.resources
    if wanted.workers == 0:
        return None
    return Resources(cpus=wanted.cpus, gpus=wanted.gpus, workers=wanted.workers)


def _problems(spec: RouteSpec) -> Iterator[UserError]:
    if spec.name in TAKEN:
        allowed = f"any name but {', '.join(TAKEN)}, which lie next to it"
        yield UserError("name", got=spec.name, allowed=allowed)
    elif "://" in spec.folder:
        do = "routing keeps its results in files; only `launch` takes a database"
        yield UserError("folder", got=spec.folder, allowed="a folder", do=do)
    elif (store_of(spec).journal).exists() or store_of(spec).toml.exists():
        do = "another study, which `launch` made, has this name there: rename one"
        yield UserError(f"name: {store_of(spec).root} is taken", got=spec.name, do=do)
    others = [name for name in spec.search.encoders if name != spec.router.encoder]
    yield from source_problems("model.id", spec.model.id, "model")
    for key, names in (("router.encoder", [spec.router.encoder]), ("search.encoders", others)):
        for name in names:
            yield from source_problems(key, name, "model")
    for name, task in spec.tasks.items():
        yield from source_problems(f"tasks.{name}.dataset", task.dataset, "data")
        if task.harness is not None:
            do = '[evaluation] harness = "arc_easy,piqa" judges by such tasks'
            yield UserError(f"tasks.{name}.harness", got=task.harness, allowed="nothing", do=do)
    if spec.evaluation.harness and (missing := harness_missing("evaluation.harness")):
        yield missing
    if spec.sets.file and not Path(spec.sets.file).expanduser().is_file():
        yield UserError("sets.file: no such file", got=spec.sets.file)
    if not spec.routed():
        yield UserError("tasks: none is routed", do="sets and router learn from routed tasks")


def _absolute(spec: RouteSpec) -> RouteSpec:
    """Local paths made absolute, as workers run in other folders."""
    sets, router, search = spec.sets, spec.router, spec.search
    judged = {"harness": resolved_tasks(spec.evaluation.harness)}
    file = str(Path(sets.file).expanduser().absolute()) if sets.file else None
    return spec.model_copy(
        update={
            "folder": str(Path(spec.folder).expanduser().absolute()),
            "model": spec.model.model_copy(update={"id": resolved(spec.model.id)}),
            "router": router.model_copy(update={"encoder": resolved(router.encoder)}),
            "search": search.model_copy(update={"encoders": tuple(map(resolved, search.encoders))}),
            "sets": sets.model_copy(update={"file": file}),
            "evaluation": spec.evaluation.model_copy(update=judged),
            "tasks": {
                name: task.model_copy(update={"dataset": resolved(task.dataset)})
                for name, task in spec.tasks.items()
            },
        }
    )
