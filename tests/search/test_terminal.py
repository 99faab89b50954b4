"""The terminal: how wide it is taken to be, and the environment of a command."""

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from search.terminal import PIPE, QUIET, console, quiet_libraries, somebody


def test_a_pipe_is_wide_unless_someone_says_how_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "Omission skip=1,2 > Wanda sparsity=0.4, " * 4 + "end"
    console().print(long)
    assert capsys.readouterr().out.splitlines() == [long]
    assert console().width == PIPE
    monkeypatch.setenv("COLUMNS", "90")
    assert console().width == 90


def test_a_window_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "70")
    assert console().width == 70


def test_libraries_are_quiet_where_the_user_says_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in QUIET:
        monkeypatch.setenv(name, "theirs")
    quiet_libraries()
    assert {os.environ[name] for name in QUIET} == {"theirs"}


def test_a_user_id_without_a_home_and_a_name_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    somebody()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert Path.home() == Path(tempfile.gettempdir())
    monkeypatch.setenv("HOME", "/home/me")
    somebody()
    assert Path.home() == Path("/home/me")


def test_retries_of_a_hub_out_of_reach_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)
    code = (
        "from search.terminal import quiet_libraries; quiet_libraries();"
        "from huggingface_hub.utils import logging;"
        "logging.get_logger('huggingface_hub.utils._http').warning('Retrying in 1s')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr == ""
