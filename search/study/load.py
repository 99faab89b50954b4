"""Reads a study file: validates it, and says everything that is wrong with it in one message.

`load_study(path)` needs neither torch nor ray. The space is loaded apart from it, by
`search.study.space.load_space`, since spaces import the methods and the methods torch.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from search.errors import StudyError
from search.study.checks import looks_local, problems
from search.study.database import stored
from search.study.messages import explain
from search.study.schema import Study
from trainables.core.errors import UserError, did_you_mean

OVERRIDABLE = ("budget", "resources", "storage")
MAY_DIFFER = (*OVERRIDABLE, "first")  # between two launches of one study

Overrides = Mapping[str, Any]  # "budget.trials" -> 80; None leaves the file's value


def load_study(path: Path | str, overrides: Overrides | None = None) -> Study:
    """Read and check a study file."""
    return parse_study(read_text(path), str(path), overrides)


def read_text(path: Path | str) -> str:
    """The text of a study file."""
    file = Path(path)
    if not file.is_file():
        near = did_you_mean(file.name, [other.name for other in file.parent.glob("*.toml")])
        raise UserError("no such study file", got=str(path), do=near)
    try:
        return file.read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}", do="save it as UTF-8 text") from error


def parse_study(text: str, source: str, overrides: Overrides | None = None) -> Study:
    """Check the text of a study file; `source` is what messages call it."""
    tables = _overridden(parse_tables(text, source), overrides or {})
    if "tasks" in tables and "space" not in tables:
        raise UserError(f"{source}: a routing study", do=f"rayduce route eval {source}")
    try:
        study = Study.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        raise StudyError(source, explain(error, Study)) from None
    found = problems(study)
    if found:
        raise StudyError(source, found)
    return _absolute(study)


def study_toml(study: Study) -> str:
    """The study as a file of its own: overrides included, local paths absolute, no password."""
    if (database := study.storage.database) is not None:
        storage = study.storage.model_copy(update={"database": stored(database)})
        study = study.model_copy(update={"storage": storage})
    return tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))


def compare(old: Study, new: Study) -> list[str]:
    """What keeps `new` from continuing `old` under the same name, a line each."""
    before, after = (dict(_leaves(study.model_dump(mode="json"))) for study in (old, new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    orders = [", ".join(study.objectives) for study in (old, new)]
    if set(old.objectives) == set(new.objectives) and orders[0] != orders[1]:
        return [f"objectives: was {orders[0]}, now {orders[1]}"]
    return [
        f"{key}: was {json.dumps(before.get(key))}, now {json.dumps(after.get(key))}"
        for key in keys
        if key.split(".")[0] not in MAY_DIFFER
    ]


def storage_overrides(place: str | None) -> dict[str, str]:
    """What `--storage` means: a database where it is a URL, else the folder of the results."""
    if place is None:
        return {}
    if Path(place).expanduser().is_file():
        raise UserError("--storage: not a folder", got=place)
    return {"storage.database" if "://" in place else "storage.folder": place}


def parse_tables(text: str, source: str) -> dict[str, Any]:
    """The tables of a study file, as TOML has them."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        do = "mend that line; text stands in quotes"
        if re.search(r"^\s*space\s*=", text, re.M) and re.search(r"^\s*\[space\]", text, re.M):
            do = 'to override a space\'s ranges write its name inside: [space] name = "..."'
        raise UserError(f"{source}: not valid TOML: {error}", do=do) from None


def _overridden(tables: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The file's tables with the command line's values in place."""
    for key, value in overrides.items():
        table, _, name = key.partition(".")
        if table not in OVERRIDABLE or not name:
            allowed = ", ".join(f"{table}.*" for table in OVERRIDABLE)
            raise UserError("override", got=key, allowed=allowed, do="edit the study file")
        if value is not None and isinstance(tables.setdefault(table, {}), dict):
            tables[table][name] = value
    return tables


def _absolute(study: Study) -> Study:
    """Local paths made absolute, as workers run in other folders."""
    model = study.model.model_copy(update={"id": resolved(study.model.id)})
    read = {"dataset": resolved(study.data.dataset), "harness": resolved_tasks(study.data.harness)}
    data = study.data.model_copy(update=read)
    folder = Path(os.path.expanduser(study.storage.folder)).absolute()
    storage = study.storage.model_copy(update={"folder": str(folder)})
    options = {name: _resolved_paths(value) for name, value in study.space.options.items()}
    space = study.space.model_copy(update={"options": options})
    found = {"model": model, "data": data, "storage": storage, "space": space}
    return study.model_copy(update=found)


def _resolved_paths(value: Any) -> Any:
    """A space's setting with local paths made absolute: other models, texts."""
    if isinstance(value, Mapping):
        return {name: _resolved_paths(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved_paths(one) for one in value]
    named = isinstance(value, str) and ("/" in value or looks_local(value))
    return resolved(value) if named else value


def resolved_tasks(harness: str | None) -> str | None:
    """The tasks of the harness, those that are files by absolute paths."""
    if harness is None:
        return None
    names = [name.strip() for name in harness.split(",")]
    return ",".join(resolved(n) if n.endswith((".yaml", ".yml")) else n for n in names)


def resolved(name: str) -> str:
    """A local path as an absolute one; a hub id or an asset as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if not name.startswith("asset:") and path.exists() else name


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
