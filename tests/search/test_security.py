"""What comes from outside runs nothing here, leaves no folder, and learns no secret."""

import ast
import json
import os
import pickle
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from search.engine.shipping import shipment
from search.errors import StudyError
from search.journal.store import Store, find_store, study_names
from search.journal.view import read
from search.ledger.mirror import sync
from search.ledger.run_fields import study_files, trial_files
from search.ledger.ui import command
from search.report.page import write_report
from search.study.database import hidden
from search.study.load import parse_study
from tests.support.families import GROUPED
from tests.support.journals import TOML, Sample, sample_study
from tests.support.ledgers import Runs, migrated_ledger
from trainables.bench.models.load import load_model
from trainables.bench.training.loop import Recipe, Training
from trainables.core.errors import ModelError, PlanError, UserError
from trainables.core.places import CHECKOUT
from trainables.core.spec import ModelSpec, TrainSpec
from trainables.stage import Stage

SECRET = "s3cret"
SERVER = CHECKOUT / "mlflow" / "server.sh"


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


# -- no pickle from outside ----------------------------------------------------------------------


def test_weights_that_are_a_pickle_run_nothing(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**GROUPED)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Bomb(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    spec = ModelSpec(id=str(tmp_path))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path, spec, "language-modelling", ())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "written", [torch.save, lambda what, to: to.write_bytes(pickle.dumps(what, 2))]
)
def test_a_checkpoint_of_training_that_is_another_pickle_runs_nothing(
    tmp_path: Path, written: Any
) -> None:
    model = LlamaForCausalLM(LlamaConfig(**GROUPED))
    written({"model": Bomb(tmp_path / "ran")}, tmp_path / "checkpoint")
    recipe = Recipe(TrainSpec(), lambda seed: [], 1, lambda *_: torch.zeros(()), lambda epoch: 0)
    assert not Training(model, recipe).resume(tmp_path / "checkpoint")
    assert not (tmp_path / "ran").exists()


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Every call in our packages: file, what is called, its keywords."""
    for package in ("search", "spaces", "trainables"):
        for path in (CHECKOUT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    named = {key.arg: key.value for key in node.keywords if key.arg}
                    yield path.name, ast.unparse(node.func), named


def test_nothing_else_reads_pickles_and_no_call_allows_foreign_code() -> None:
    readers = {"pickle.load", "pickle.loads", "joblib.load", "dill.load", "pd.read_pickle"}
    found = list(calls())
    assert len(found) > 5000
    for file, name, keywords in found:
        assert name not in readers, file
        if name == "cloudpickle.load":
            assert file == "tune.py"  # what Ray itself wrote down of an error
        if name == "torch.load":
            assert ast.unparse(keywords["weights_only"]) == "True", file
        if name == "np.load":
            assert ast.unparse(keywords["allow_pickle"]) == "False", file
        if "trust_remote_code" in keywords:
            assert ast.unparse(keywords["trust_remote_code"]).endswith("spec.trust_remote_code")


# -- no foreign code -----------------------------------------------------------------------------

CODE = """
from pathlib import Path
Path("{mark}").mkdir()
from transformers import LlamaConfig, LlamaForCausalLM

class MineConfig(LlamaConfig):
    model_type = "mine"

class Mine(LlamaForCausalLM):
    config_class = MineConfig
"""


def test_a_models_own_code_runs_only_where_the_study_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    LlamaForCausalLM(LlamaConfig(**GROUPED)).save_pretrained(folder)
    (folder / "mine.py").write_text(CODE.format(mark=mark))
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"}
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": own})
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    assert not ModelSpec(id=str(folder)).trust_remote_code
    with pytest.raises(ModelError, match="brings Python code of its own"):
        load_model(folder, ModelSpec(id=str(folder)), "language-modelling", ())
    assert not mark.exists()


@pytest.mark.parametrize("name", ["os:system", "trainables.wanda:calibrate", "builtins:exec", "x"])
def test_what_is_no_stage_is_not_made_one(name: str) -> None:
    with pytest.raises((PlanError, UserError)):
        Stage.from_dict({"stage": name, "version": 1, "fields": {}})


# -- names stay in their folder ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "a/b", "..", ".hidden", "a b", "mlflow.db", ""]
)
def test_a_studys_name_is_one_folder(name: str) -> None:
    with pytest.raises(StudyError, match="name: got"):
        parse_study(TOML.replace('name = "depth"', f'name = "{name}"'), "depth.toml")


def test_names_in_a_shared_database_that_are_no_folders_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna.get_all_study_names", lambda _: ["../out", "depth", "/tmp/out"])
    Sample(tmp_path).close()
    url = f"sqlite:///{tmp_path}/depth/study.db"
    monkeypatch.setattr("search.journal.store.database_url", lambda _: Store(tmp_path, "depth").url)
    assert study_names(tmp_path, url) == ["depth"]
    with pytest.raises(UserError, match="no such study"):
        find_store(tmp_path, "../out", url)


def test_a_folder_beside_the_studies_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.toml").write_text("")
    with pytest.raises(UserError, match="no such study"):
        find_store(tmp_path / "runs", "../out")


# -- secrets -------------------------------------------------------------------------------------


def test_no_secret_is_in_files_tags_or_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    storage = sample_study().storage.model_copy(
        update={"database": f"postgresql://me:{SECRET}@host/name"}
    )
    sample = Sample(tmp_path, sample_study(storage=storage)).run()
    migrated_ledger(sample.store.ledger)
    sync(sample.store)
    write_report(sample.store, sample.store.root / "report.html")
    view = read(sample.store)
    sample.close()
    texts = [*study_files(view).values()]
    texts += [text for one in view.results for text in trial_files(view, one).values()]
    runs = Runs(sample)
    texts += [str(run.data.to_dictionary()) for run in [runs.parent, *runs.trials.values()]]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [text for text in texts if SECRET in text]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("GET http://me:s3cret@head:5000/api failed", "GET http://head:5000/api failed"),
        ("postgresql+psycopg://me:s3cret@h/n, http://s3cret@x", "postgresql+psycopg://h/n, http://x"),
        ("mail me@example.org about http://x/@y", "mail me@example.org about http://x/@y"),
    ],
)  # fmt: skip
def test_addresses_in_messages_of_libraries_lose_their_passwords(text: str, told: str) -> None:
    assert hidden(text) == told


def test_no_file_of_secrets_travels_to_the_nodes() -> None:
    secret = CHECKOUT / "search" / ".env"
    secret.write_text(SECRET)
    try:
        with shipment() as folder:
            names = {path.name for path in folder.rglob("*")}
    finally:
        secret.unlink()
    assert "cli.py" in names and not [name for name in names if name.startswith(".")]


# -- who may listen ------------------------------------------------------------------------------


def test_the_pages_are_served_to_this_machine_alone(tmp_path: Path) -> None:
    said = command(Store(tmp_path, ""), 5000)
    assert said[said.index("--host") + 1] == "127.0.0.1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """Runs the script with settings, and a program that says what it would start."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "auth.ini").write_text("[mlflow]\n")

    def run(**settings: str) -> "subprocess.CompletedProcess[str]":
        usual = {
            "BACKEND_STORE_URI": "postgresql+psycopg://mlflow@localhost/mlflow",
            "ARTIFACTS_DESTINATION": str(tmp_path / "artifacts"),
            "HOST": "127.0.0.1",
            "PORT": "5000",
            "ALLOWED_HOSTS": "localhost:5000",
        }
        file = tmp_path / "server.env"
        file.write_text("".join(f"{key}={value}\n" for key, value in (usual | settings).items()))
        path = f"{fake.parent}:{os.environ['PATH']}"
        return subprocess.run(
            [str(SERVER), str(file)], env={"PATH": path}, capture_output=True, text=True
        )

    yield run


def test_the_server_listens_beyond_this_machine_only_with_passwords(
    server: Any, tmp_path: Path
) -> None:
    alone = server()
    assert alone.returncode == 0 and "--host 127.0.0.1" in alone.stdout
    assert "--app-name" not in alone.stdout and "postgresql" not in alone.stdout
    refused = server(HOST="0.0.0.0")
    assert refused.returncode == 2 and "AUTH_CONFIG" in refused.stderr and not refused.stdout
    secret = {"AUTH_CONFIG": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"}
    open_ = server(HOST="0.0.0.0", **secret)
    assert open_.returncode == 0 and "--app-name basic-auth --host 0.0.0.0" in open_.stdout
