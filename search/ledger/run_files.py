"""A trial as its MLflow run has it: study, point, facts and record, from the run's files."""

import json
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.journal.results import Result
from search.journal.store import Store, saved_study
from search.journal.view import View
from search.ledger.mirror import embedded, open_client, said, tracking_uri
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
    texts = _files(client, uri, run_id)
    told, made = tomllib.loads(texts["trial.toml"]), json.loads(texts["compression.json"])
    study = saved_study(texts["study.toml"], told["study"])
    base = Result(0, "complete", {}, made["metrics"]["baseline"], {}, {})
    result = _result(told, made)
    notes = {"facts": json.loads(texts["facts.json"]), "git_commit": told.get("git_commit")}
    found = (result,) if result.is_baseline else (base, result)
    return client, View(study, found, None, notes), result


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


def _files(client: "MlflowClient", uri: str, run_id: str) -> dict[str, str]:
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
        do = "check the id, and that MLFLOW_TRACKING_URI names the server"
        raise UserError(f"no run {run_id} in the ledger {uri}: {said(error)}", do=do) from error
