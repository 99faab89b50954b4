"""Finds what MLflow holds of a study already, and mends what others did to it meanwhile."""

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from search.journal.store import Store
from search.ledger.places import rehome
from search.ledger.run_fields import TOKEN, UID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

log = logging.getLogger("rayduce")

PROJECT = "rayduce"


def experiment_name() -> str:
    """The experiment that all studies share."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT


def open_experiment(client: "MlflowClient", store: Store, *, local: bool) -> str:
    """The id of the experiment that all studies share: made, or restored, where it has to be.

    Args:
        local: whether the ledger is the file beside the studies.
    """
    name = experiment_name()
    found = client.get_experiment_by_name(name) or _made(client, store, name, local=local)
    if found.lifecycle_stage == "deleted":
        log.warning("the experiment %s was deleted in MLflow: restored", name)
        client.restore_experiment(found.experiment_id)
    if local and rehome(store, found.artifact_location):
        log.warning("%s was moved: MLflow looks for its files here now", store.folder)
    return str(found.experiment_id)


def _made(client: "MlflowClient", store: Store, name: str, *, local: bool) -> "Experiment":
    from mlflow.exceptions import MlflowException

    place = store.artifacts.as_uri() if local else None
    tags = {"mlflow.experimentKind": "custom_model_development"}  # which of its pages to show
    try:
        client.create_experiment(name, artifact_location=place, tags=tags)
    except MlflowException:
        if client.get_experiment_by_name(name) is None:  # nobody else made it at the same time
            raise
    return client.get_experiment_by_name(name)


def find_runs(client: "MlflowClient", experiment: str, token: str) -> "dict[str, Run]":
    """A study's runs by their tags: trial number -> run; the study's own under "".

    Of doubles, which two machines made at once, the first by id stays, so that both machines come
    to the same.
    """
    found: dict[str, Run] = {}
    for run in sorted(tagged(client, experiment, token), key=lambda one: str(one.info.run_id)):
        uid = run.data.tags.get(UID)
        part, _, last = ("" if uid is None else uid.removeprefix(f"{token}-")).rpartition("-")
        number = "" if uid is None else f"{part and f'{part}-'}{int(last)}"
        if number in found:
            client.delete_run(run.info.run_id)
        else:
            found[number] = run
    return found


def tagged(
    client: "MlflowClient", experiment: str, value: str, tag: str = TOKEN
) -> "Iterator[Run]":
    """All runs with a tag of this value."""
    page = None
    while True:
        found = client.search_runs(
            [experiment], f"tags.`{tag}` = '{value}'", max_results=1000, page_token=page
        )
        yield from found
        page = found.token
        if not page:
            return
