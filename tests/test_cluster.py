"""cluster.yaml is what Ray's cluster launcher takes, checked offline."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from search.cli import app
from search.study.load import load_study

ROOT = Path(__file__).resolve().parent.parent
OLDER = " RAY_enable_autoscaler_v2=0"  # the other one leaves a machine of an own cluster out


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_accepts_the_cluster_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


def test_every_start_names_its_authentication() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)


def test_the_commit_travels_to_the_cluster() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert ".git" not in config["rsync_exclude"]


def test_the_example_runs_on_gpus_and_no_sqlite_on_the_shared_folder() -> None:
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    example = " ".join(line.strip("# ") for line in lines if line.startswith("#     RAY_AUTH"))
    assert "--gpus 1" in example and "/shared" not in example
    named = set(re.findall(r"spaces/studies/[\w-]+\.toml", example))
    (study,) = [load_study(ROOT / name) for name in named]
    assert study.resources.gpus == 1 and study.model.dtype == "bfloat16"
    assert (study.storage.database or "").startswith("postgresql://")


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_accepts_the_one_for_rented_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "docs" / "cluster-cloud.yaml").read_text())
    validate_config(prepare_config(config))
    own = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for part in ("worker_start_ray_commands", "file_mounts"):
        assert config[part] == own[part]
    theirs = [line.replace(OLDER, "") for line in own["head_start_ray_commands"]]
    assert config["head_start_ray_commands"] == theirs


def test_the_head_can_reach_the_workers_and_starts_all_of_them() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert config["auth"]["ssh_private_key"]  # Ray copies it to the head
    assert [OLDER in line for line in config["head_start_ray_commands"]] == [False, True]


def test_the_pages_commands_are_commands_with_such_options() -> None:
    """Every `rayduce` line of the page is understood by the command line."""
    group: Any = typer.main.get_command(app)
    text = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"(?<![\w./~=-])rayduce ([a-z][^`'\n|;#&]*)", text)
    assert len(lines) > 8
    for line in lines:
        verb, *given = line.split()
        command = group.commands[verb]
        options = {option for one in command.params for option in one.opts}
        assert {word for word in given if word.startswith("--")} <= options, line
