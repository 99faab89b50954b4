"""The terminal: how wide it is taken to be, and the environment of a command."""

import os

import pytest

from search.terminal import PIPE, QUIET, console, quiet_libraries


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
