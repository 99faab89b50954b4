"""Turns on a device, in processes of their own: who waits for whom, and who lets go by dying."""

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainables.core import alone as turns_module
from trainables.core.alone import Turns, alone, computing, idle, pause


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def worker(folder: str, kind: str, said: Any, go_on: Any) -> None:
    """Computes, or measures, until told to go on."""
    turns = Turns("here", Path(folder))
    if kind == "computes":
        turns.enter()
    elif kind == "steps aside":
        turns.enter()
        said.put(kind)
        while not go_on.is_set():
            turns.pause(lambda: None)
            time.sleep(0.005)
        return
    else:
        turns.claim()
    said.put(kind)
    go_on.wait(20)


class Others:
    """Processes beside this one."""

    def __init__(self, folder: Path) -> None:
        self.context = mp.get_context("fork")
        self.folder, self.all = str(folder), list[Any]()

    def start(self, kind: str) -> tuple[Any, Any]:
        """(the process, what lets it go on), once it has what it wants."""
        said, go_on = self.context.Queue(), self.context.Event()
        process = self.context.Process(target=worker, args=(self.folder, kind, said, go_on))
        process.start()
        self.all.append(process)
        assert said.get(timeout=20) == kind
        return process, go_on


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Others]:
    found = Others(tmp_path)
    yield found
    for process in found.all:
        process.kill()
        process.join()


def impatient(folder: Path) -> Turns:
    return Turns("here", folder, patience=0.1)


def can_measure(folder: Path, device: str = "here") -> bool:
    """Whether a process that waits a moment has the device alone."""
    turns = Turns(device, folder, patience=0.1)
    try:
        return turns.claim()
    finally:
        turns.close()


def test_a_measurement_waits_for_who_computes(others: Others, tmp_path: Path) -> None:
    process, go_on = others.start("computes")
    assert not can_measure(tmp_path), "goes on, and says that it was not alone"
    go_on.set()
    process.join()
    assert can_measure(tmp_path)


def test_nobody_computes_beside_a_measurement(others: Others, tmp_path: Path) -> None:
    others.start("measures")
    turns = impatient(tmp_path)
    assert not turns._wait(turns._gate, turns_module.fcntl.LOCK_SH)
    assert not can_measure(tmp_path)
    assert can_measure(tmp_path, "another device")


def test_who_is_killed_lets_go(others: Others, tmp_path: Path) -> None:
    for kind in ("computes", "measures"):
        process, _ = others.start(kind)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert can_measure(tmp_path), kind


def test_who_computes_steps_aside_between_two_batches(others: Others, tmp_path: Path) -> None:
    for _ in range(2):
        others.start("steps aside")
    turns = Turns("here", tmp_path, patience=20)
    for _ in range(3):
        assert turns.claim()
        turns.give_back()


def test_who_waits_for_another_does_not_compute(tmp_path: Path) -> None:
    device = "here"
    with computing(device):
        assert not can_measure(tmp_path)
        with idle():
            assert can_measure(tmp_path)
        assert not can_measure(tmp_path)


def test_one_process_computes_measures_and_goes_on(tmp_path: Path) -> None:
    with computing("here"):
        pause()
        with alone("here") as really, alone("here") as still:
            assert really and still
            assert not can_measure(tmp_path)
            pause()
        other = impatient(tmp_path)
        other.enter()
        other.close()
        assert not can_measure(tmp_path), "it computes again"
    assert can_measure(tmp_path)


def test_who_computes_nothing_measures_too(tmp_path: Path) -> None:
    with alone("here") as really, alone("here") as still:
        assert really and still and not can_measure(tmp_path)
    assert can_measure(tmp_path)


def test_a_machine_without_a_temporary_folder_measures_and_says_so(tmp_path: Path) -> None:
    turns = Turns("here", tmp_path / "none")
    turns.enter()
    turns.pause(lambda: None)
    assert not turns.claim()
    turns.give_back()
    turns.close()
