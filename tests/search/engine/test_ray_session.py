"""Which Ray a launch talks to: its environment, and what is said where nobody answers."""

import os
import socket
import sys
from pathlib import Path

import pytest

from search.engine.ray_session import ray_cluster, ray_environment, refuse_lost_folder
from search.study.schema import Resources
from trainables.core.errors import UserError


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As before Ray's first import, in a home without Ray's folder."""
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_a_local_ray_gets_a_token_of_its_own(tmp_path: Path) -> None:
    ray_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("environment")
def test_a_cluster_is_shown_the_token_that_was_written_for_it(tmp_path: Path) -> None:
    os.environ["RAY_ADDRESS"] = "head:6379"
    ray_environment()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret")
    ray_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.usefixtures("environment")
def test_what_the_user_says_of_authentication_stands(tmp_path: Path) -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray_environment()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "[127.0.0.1]:{}"])
def test_where_nobody_listens_there_is_one_message(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = form.format(taken.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address)
        with (
            pytest.raises(UserError) as said,
            ray_cluster(Resources(), lambda text: None),
        ):
            pass
    for part in ("no answer from Ray", address, "RAY_AUTH_MODE", "unset RAY_ADDRESS"):
        assert part in str(said.value)


def test_rays_client_protocol_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with (
        pytest.raises(UserError) as said,
        ray_cluster(Resources(), lambda text: None),
    ):
        pass
    for part in ("client protocol", "ray://head:10001", "HOST:6379", "ray job submit"):
        assert part in str(said.value)


def test_a_head_that_holds_no_trial_is_not_refused_as_nodes_may_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setattr("search.engine.nodes.LOOK", -1.0)
    listed = [{"NodeID": "head", "Alive": True, "Resources": {"CPU": 8.0}}]
    for name, found in {"init": None, "shutdown": None, "nodes": listed}.items():
        monkeypatch.setattr(f"ray.{name}", lambda found=found, **_: found)
    with ray_cluster(Resources(gpus=1), lambda text: None) as nodes:
        assert nodes.slots() == 0
        listed.append({"NodeID": "box", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}})
        assert nodes.slots() == 2


def test_results_inside_a_jobs_own_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.chdir(package)
    refuse_lost_folder(Path("runs"))  # no job
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for lost in (Path("runs"), package / "runs"):
        with pytest.raises(UserError, match="absolute folder that all nodes see"):
            refuse_lost_folder(lost)
    refuse_lost_folder(tmp_path / "runs")


def test_an_address_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with (
        pytest.raises(UserError, match="nonsense"),
        ray_cluster(Resources(), lambda text: None),
    ):
        pass


def test_a_long_path_of_temporary_files_is_not_for_rays_sockets(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setattr("tempfile.gettempdir", lambda: "/tmp/of/a/job/with/a/path/" + "long" * 20)
    ray_environment()
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    os.environ["RAY_TMPDIR"] = "/mine"
    ray_environment()
    assert os.environ["RAY_TMPDIR"] == "/mine"
