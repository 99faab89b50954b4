"""A trial as its MLflow run has it: study, point, facts and record, from the run's files."""

import json
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from search.journal.results import Result
from search.journal.store import Store, saved_study
from search.journal.view import View
from search.ledger.mirror import embedded, open_client, said, tracking_uri
from search.study.database import redacted
from search.study.load import parse_study
from search.study.schema import Study
from spaces import sets
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES = ("trial.toml", "compression.json", "study.toml", "facts.json")


def read_run(store: Store, run_id: str) -> "tuple[MlflowClient, View, Result]":
    """The ledger's client, and a run's trial with as much of its study as the run knows.

    Raises UserError: no such run, no trial's run, no answer.
    """
    uri = tracking_uri(store)
    if uri == embedded(store) and not store.ledger.is_file():
        do = "set MLFLOW_TRACKING_URI to the server, or --storage to the folder of the results"
        raise UserError(f"no ledger in {store.folder} to look for run {run_id}", do=do)
    client = open_client(uri)
    view, result = read_trial(client, run_id)
    return client, view, result


def read_trial(client: "MlflowClient", run_id: str) -> tuple[View, Result]:
    """The same of a ledger that is open."""
    texts = _files(client, run_id)
    told, made = tomllib.loads(texts["trial.toml"]), json.loads(texts["compression.json"])
    study = saved_study(texts["study.toml"], told["study"])
    base = Result(0, "complete", {}, made["metrics"]["baseline"], {}, {})
    result = _result(told, made)
    notes = {"facts": json.loads(texts["facts.json"]), "git_commit": told.get("git_commit")}
    found = (result,) if result.is_baseline else (base, result)
    return View(study, found, None, notes), result


def study_like(
    store: Store, run_id: str, overrides: Mapping[str, Any], name: str | None = None
) -> Study:
    """A study as the one of a run, under a name of its own, which tries the run's point first.

    Where it is stored and what a trial gets are this machine's business, so that only what is
    searched comes from there.

    Args:
        overrides: as `parse_study` takes them.
        name: by default the study's, with the beginning of the run's id.

    Raises UserError: no such run, or a study that cannot run here.
    """
    _, view, result = read_run(store, run_id)
    tables = view.study.model_dump(mode="json", exclude_none=True)
    tables["name"] = name or f"{view.study.name[:50]}-like-{run_id[:8]}"
    point = sets.read(result.params)
    tables["first"] = [one for one in (point, *tables.get("first", ())) if one]
    tables.pop("storage", None)
    return parse_study(tomli_w.dumps(tables), f"run {run_id}", overrides)


def _result(told: dict[str, Any], made: dict[str, Any]) -> Result:
    kept = ("stages", "lineage", "same_as", "hardware")
    record = {name: made.get(name) for name in kept} | {"data": made.get("fingerprints")}
    record["data_form"] = made.get("read_as")
    return Result(
        number=told["number"],
        state=told["state"],
        params=told.get("params", {}),
        metrics=told.get("metrics", {}),
        violations=told.get("constraints", {}),
        record=record | {"reason": told.get("reason")},
        on_front=told["front"],
    )


def _files(client: "MlflowClient", run_id: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        there = {one.path for one in client.list_artifacts(run_id)}
        if missing := [name for name in FILES if name not in there]:
            do = "give the id of a trial's run; a study is exported by its name"
            raise UserError(f"run {run_id} is no trial's: it holds no {missing[0]}", do=do)
        with tempfile.TemporaryDirectory(prefix="rayduce-") as place:
            paths = {name: client.download_artifacts(run_id, name, place) for name in FILES}
            return {name: Path(path).read_text(encoding="utf-8") for name, path in paths.items()}
    except (MlflowException, OSError) as error:
        where = redacted(client.tracking_uri)
        do = "check the id, and that --mlflow or MLFLOW_TRACKING_URI names the server"
        raise UserError(f"no run {run_id} in the ledger {where}: {said(error)}", do=do) from error
