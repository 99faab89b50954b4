"""Puts an exported folder into MLflow's registry of models."""

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = re.compile(r"[^/:\s][^/:]{0,199}")
ALIAS = "champion"  # models:/NAME@champion is what was registered last


def check_name(name: str) -> None:
    """Raise UserError for a name MLflow would refuse, before any work is done."""
    if not NAME.fullmatch(name):
        raise UserError("--register", got=name, allowed="a name without / and :")


def register_model(store: Store, view: View, result: Result, folder: Path, name: str) -> str:
    """Register a folder as the newest version of a model; returns what to tell the user.

    The export stands whether or not the ledger answers.
    """
    from search.ledger.mirror import open_ledger, told

    try:
        with told(store):
            ledger = open_ledger(store)
            ledger.update(view, ending=view.driver is None)
    except UserError as error:
        return _not_registered(error)
    number = str(result.number)
    if number not in ledger.known:
        return f"exported, but not registered: {ledger.refused.get(number, 'it has no run')}"
    return register(ledger.client, ledger.known[number]["run_id"], folder, name)


def register(client: "MlflowClient", run_id: str, folder: Path, name: str) -> str:
    """The same below a run that is there."""
    from mlflow.exceptions import MlflowException

    try:
        client.log_artifacts(run_id, str(folder), "model")
        with contextlib.suppress(MlflowException):  # it is there already
            client.create_registered_model(name)
        version = client.create_model_version(name, f"runs:/{run_id}/model", run_id).version
        client.set_registered_model_alias(name, ALIAS, version)
    except (MlflowException, OSError) as error:
        return _not_registered(error)
    return f"registered as {name} version {version}: models:/{name}@{ALIAS}"


def _not_registered(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"exported, but not registered: {lines[0]}"
