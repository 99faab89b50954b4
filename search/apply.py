"""Compresses another model as a trial compressed its own: stages are data, no study is needed.

rayduce apply smaller/compression.json --model ANOTHER --to DIR
"""

import json
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from search.engine.preflight import gpu_count
from search.errors import StudyError
from search.journal.results import Result
from search.journal.view import View
from search.rebuild import Plan, Said, free, make
from search.study.checks import problems, see_current_folder
from search.study.load import resolved
from search.study.messages import explain
from search.study.schema import RUNS, Study
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from trainables.bench.models.save import Form
    from trainables.stage import Stage

NEEDED = ("study", "model", "data", "objectives", "stages", "seed")


def apply_file(
    file: Path,
    to: Path,
    *,
    model: str | None = None,
    dataset: str | None = None,
    task: str | None = None,
    folder: Path = Path(RUNS),
    form: "Form" = "plain",
    said: Said = lambda text: None,
) -> str:
    """Do the stages of a compression.json or trial.toml to another model; what to tell the user.

    Args:
        model: a hub id, a local folder or an asset; by default the file's own.
        dataset: another data set than the file's; its columns and splits are looked for anew.
        task: another task than the file's.
        folder: where results are shared with trials.
        form: what the folder itself holds where transformers cannot build the model as it is.

    Raises:
        UserError: a file that is none of these, stages that the model does not take, and all that
            an export may find wrong.
    """
    target = free(to)
    told = _read(file)
    model = model or str(told["model"].get("id", ""))
    study = _study(told, str(file), model, _data(told["data"], dataset, task))
    number = told.get("trial", told.get("number", 0))
    given = {"model": model, "dataset": dataset, "task": task, "to": "DIR"}
    flags = [f"--{name} {shlex.quote(value)}" for name, value in given.items() if value]
    stages = _stages(told["stages"], file)
    plan = Plan(
        View(study, ()),
        Result(number, "complete", {}, {}, {}, {"stages": list(map(_planned, stages))}),
        stages,
        folder.expanduser().absolute() / "cache",
        again=" ".join(["rayduce apply compression.json", *flags]),
        searched=False,
        form=form,
    )
    return make(plan, target, said)


def _read(file: Path) -> dict[str, Any]:
    """The file's tables; a folder means its compression.json."""
    path = file / "compression.json" if file.is_dir() else file
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        allowed = "a compression.json or a trial.toml"
        raise UserError(f"cannot read {path}: {what}", allowed=allowed) from error
    missing = [name for name in NEEDED if not isinstance(found, dict) or name not in found]
    if missing:
        do = "export the trial again: older files do not say enough"
        raise UserError(f"{path}: no {missing[0]}", allowed=", ".join(NEEDED), do=do)
    tables: dict[str, Any] = found
    return tables


def _data(data: Mapping[str, Any], dataset: str | None, task: str | None) -> dict[str, Any]:
    """The file's data table with what was asked for instead."""
    own = ("subset", "splits", "columns", "rows")  # which are of one data set
    kept = {k: v for k, v in data.items() if v is not None and not (dataset and k in own)}
    given = {"dataset": resolved(dataset or kept.get("dataset", "")), "task": task}
    return kept | {name: value for name, value in given.items() if value}


def _study(told: Mapping[str, Any], source: str, model: str, data: dict[str, Any]) -> Study:
    """A study of nothing but this model, checked as study files are."""
    tables = {
        "name": told["study"],
        "space": told.get("space", "none"),
        "seed": told["seed"],
        "model": {k: told["model"][k] for k in ("dtype", "train") if told["model"].get(k)}
        | {"id": resolved(model)},
        "data": data,
        "objectives": told["objectives"],
        "metrics": told.get("own_metrics", {}),
        "budget": {"trials": 1},
        "resources": {"gpus": min(gpu_count(), 1)},
    }
    try:
        study = Study.model_validate_json(json.dumps(tables), strict=True)
    except ValidationError as error:
        raise StudyError(source, explain(error, Study)) from None
    if found := [one for one in problems(study) if not one.what.startswith("space")]:
        raise StudyError(source, found)
    return study


def _stages(found: list[Mapping[str, Any]], file: Path) -> "list[Stage]":
    """From compression.json, where a stage's data is its `spec`, or from trial.toml."""
    from trainables.stage import Stage

    see_current_folder()
    specs = [one.get("spec", one) for one in found]
    if not all({"stage", "version", "fields"} <= set(one) for one in specs):
        do = "export the trial again: older files do not say enough"
        raise UserError(f"{file}: stages without their fields", do=do)
    names = ("stage", "version", "fields")
    return [Stage.from_dict({name: one[name] for name in names}) for one in specs]


def _planned(stage: "Stage") -> dict[str, Any]:
    """A stage that is still to be done, as records have those that were."""
    settings = stage.settings()
    return {"stage": type(stage).__name__, "settings": settings, "effects": [{}], "counts": {}}
