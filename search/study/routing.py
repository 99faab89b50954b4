"""Reads a routing study's file, as any study file is read: checked, local paths absolute; and makes
of it a study that all verbs know."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search.errors import StudyError
from search.study.checks import harness_missing, source_problems
from search.study.load import parse_study, parse_tables, read_text, resolved, resolved_tasks
from search.study.messages import explain
from search.study.schema import Budget, Resources, SpaceSpec, StorageSpec, Study
from trainables.core.errors import UserError
from trainables.core.spec import DataSpec, ItemCounts
from trainables.routing.spec import SERVED, RouteSpec

GOALS = {"accuracy": "max", "active_parameters": "min"}
GIVEN = {"storage.folder": "folder", "resources.workers": "resources.workers"}  # as launch calls it


def load_either(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study file of either kind."""
    return parse_either(read_text(path), str(path), overrides)


def parse_either(text: str, source: str, overrides: Mapping[str, Any] | None = None) -> Study:
    """The same, of a file's text, or of what was saved of a study."""
    tables = parse_tables(text, source)
    if not is_routing(tables):
        return parse_study(text, source, overrides)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    if unknown := [key for key in given if key not in GIVEN]:
        do = "a routing study says the rest in its file"
        raise UserError("override", got=", ".join(unknown), allowed=", ".join(GIVEN), do=do)
    named = {GIVEN[key]: value for key, value in given.items()}
    return as_study(parse_route(tables.get("route", tables), source, named))


def is_routing(tables: Mapping[str, Any]) -> bool:
    """Whether these tables, of a file or as they were saved, are a routing study's."""
    return "route" in tables or ("tasks" in tables and "space" not in tables)


def load_route(path: Path, overrides: Mapping[str, Any] | None = None) -> RouteSpec:
    """Read and check a routing study's file.

    Args:
        overrides: "table.key" -> value in place of the file's; None leaves it.
    """
    tables = parse_tables(read_text(path), str(path))
    if not is_routing(tables):
        raise UserError(f"{path}: no routing study", do=f"rayduce launch {path}")
    return parse_route(tables, str(path), overrides)


def parse_route(
    tables: dict[str, Any], source: str, overrides: Mapping[str, Any] | None = None
) -> RouteSpec:
    """The same, of a file's tables."""
    for key, value in (overrides or {}).items():
        table, _, name = key.rpartition(".")
        if value is not None:
            (tables.setdefault(table, {}) if table else tables)[name] = value
    try:
        spec = RouteSpec.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        raise StudyError(source, explain(error, RouteSpec)) from None
    if found := list(_problems(spec)):
        raise StudyError(source, found)
    return _absolute(spec)


def as_study(spec: RouteSpec) -> Study:
    """The study whose trials are its ways of choosing, but for the untouched model's."""
    each = [task.items for task in spec.tasks.values()]
    counts = {role: sum(getattr(one, role) for one in each) for role in ItemCounts.model_fields}
    wanted = spec.resources
    return Study(
        name=spec.name,
        space=SpaceSpec(name="router"),
        seed=spec.seed,
        model=spec.model,
        data=DataSpec(
            dataset=", ".join(spec.tasks), task="multiple-choice", items=ItemCounts(**counts)
        ),
        objectives=dict(GOALS),  # type: ignore[arg-type]
        budget=Budget(trials=(len(SERVED) - 1) * len(spec.sets.budget)),
        resources=Resources(cpus=wanted.cpus, gpus=wanted.gpus, workers=wanted.workers or None),
        storage=StorageSpec(folder=spec.folder),
        first=(),
        route=spec,
    )


def _problems(spec: RouteSpec) -> Iterator[UserError]:
    if "://" in spec.folder:
        do = "routing keeps its results in files; only `launch` takes a database"
        yield UserError("folder", got=spec.folder, allowed="a folder", do=do)
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
    found = spec.model_dump()
    found["folder"] = str(Path(spec.folder).expanduser().absolute())
    found["model"]["id"] = resolved(spec.model.id)
    found["router"]["encoder"] = resolved(spec.router.encoder)
    found["search"]["encoders"] = tuple(map(resolved, spec.search.encoders))
    found["evaluation"]["harness"] = resolved_tasks(spec.evaluation.harness)
    if spec.sets.file:
        found["sets"]["file"] = str(Path(spec.sets.file).expanduser().absolute())
    for task in found["tasks"].values():
        task["dataset"] = resolved(task["dataset"])
    return RouteSpec.model_validate(found)
