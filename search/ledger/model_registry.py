"""Puts an exported folder into MLflow's registry of models."""

import contextlib
import json
import re
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from search.journal.results import Result
from search.journal.store import Store
from search.journal.view import View
from search.study.database import hidden
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = re.compile(r"[^/:\s][^/:]{0,199}")
OURS = ("compression.json", "generation_config.json", "requirements.txt")
TEXTS = ("text-generation", "TextGenerationPipeline", "tokenizer", "AutoTokenizer")
CLASSES = ("text-classification", "TextClassificationPipeline", "tokenizer", "AutoTokenizer")
IMAGES = (
    "image-classification",
    "ImageClassificationPipeline",
    "image_processor",
    "AutoImageProcessor",
)
PIPELINES = {  # a class's ending -> MLflow's words: a pipeline, what goes with it, what loads that
    "ForCausalLM": TEXTS,
    "LMHeadModel": TEXTS,
    "ForSequenceClassification": CLASSES,
    "ForImageClassification": IMAGES,
}
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
        with tempfile.TemporaryDirectory(prefix="rayduce-") as place:
            if describe(folder, Path(place)):
                client.log_artifacts(run_id, place, "model")
        with contextlib.suppress(MlflowException):  # it is there already
            client.create_registered_model(name)
        made = client.create_model_version(name, f"runs:/{run_id}/model", run_id).version
        client.set_registered_model_alias(name, ALIAS, made)
    except (MlflowException, OSError) as error:
        return _not_registered(error)
    return f"registered as {name} version {made}: models:/{name}@{ALIAS}"


def _not_registered(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"exported, but not registered: {hidden(lines[0])}"


def describe(folder: Path, to: Path) -> bool:
    """Write what lets MLflow itself load an exported folder, through `mlflow.transformers` or
    `mlflow.pyfunc`; whether it can. Other forms load by `trainables.load` from its files.

    Args:
        to: a folder of files that belong beside those of `folder`.
    """
    told = json.loads((folder / "compression.json").read_text(encoding="utf-8"))
    if not told["load"]["plain_transformers"]:
        return False
    (head,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    known = next((words for end, words in PIPELINES.items() if head.endswith(end)), None)
    if known is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own type hints
        import mlflow.pyfunc
        from mlflow.models import Model

    task, pipeline, part, loader = known
    (to / "components" / part).mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix in (".json", ".txt", ".model", ".jinja") and file.name not in OURS:
            shutil.copy2(file, to / "components" / part / file.name)
    made = Model()
    made.add_flavor(
        "transformers",
        transformers_version=version("transformers"),
        code=None,
        task=task,
        instance_type=pipeline,
        pipeline_model_type=head,
        model_binary=".",
        components=[part],
        **{f"{part}_type": loader},
    )
    mlflow.pyfunc.add_to_model(made, loader_module="mlflow.transformers")
    made.save(str(to / "MLmodel"))
    needed = [f"{name}=={version(name)}" for name in ("mlflow", "transformers", "torch")]
    (to / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    return True
