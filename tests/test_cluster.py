"""cluster.yaml is what Ray's cluster launcher takes, checked offline."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


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
