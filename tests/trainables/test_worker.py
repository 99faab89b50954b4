"""A warm worker without Ray: what it reports where a place, a process or the time gives out."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune

from tests.support.launches import ROOT, tiny_study
from tests.support.routing import study as routing_study
from trainables.core.errors import PlanError
from trainables.core.scores import from_text, read_scores
from trainables.core.spec import Assignment
from trainables.stage import Facts, Stage
from trainables.worker import ROW, Place, RouteTrial, Trial, Watchdog, keep_to

Record = dict[str, Any]
ASSERT = RuntimeError("CUDA error: device-side assert triggered")


class Raising:
    """A space whose stages raise, once they are asked for."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def survey(self, bench: Any) -> dict[str, Any]:
        return {}

    def stages(self, trial: Any, facts: Facts) -> list[Stage]:
        if self.error is not None:
            raise self.error
        return []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of a tiny model."""
    from search.study.load import load_study

    given = load_study(tiny_study(tmp_path_factory.mktemp("tiny")))
    return given.model_copy(update={"metrics": {}})


@pytest.fixture
def make(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    """Makes a worker as Ray would, for a space that raises."""
    monkeypatch.setattr(tune.Trainable, "__init__", lambda self: None)

    def made(error: Exception | None = None, place: Place | None = None, **changes: Any) -> Trial:
        worker = Trial()
        spec = study.bench_spec(tmp_path / "cache").model_copy(update=changes)
        place = place or Place(tmp_path / "results")
        worker.setup({"given": None, "facts": None}, spec, Raising(error), "study", place)
        return worker

    return made


def test_a_place_that_does_not_see_a_routing_studys_folder_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune.Trainable, "__init__", lambda self: None)
    worker, spec = RouteTrial(), routing_study(tmp_path / "made", tmp_path / "runs")
    unseen = Place(tmp_path / "runs", (tmp_path / "marker", "written elsewhere"))
    worker.setup({"given": None}, spec, None, "study", unseen)
    for _ in range(2):
        told = json.loads(worker.step()["record"])
        assert (told["state"], told["blame"], told["opening"]) == ("broken", "place", True)
        assert f"does not see {tmp_path / 'runs'}" in told["reason"]
        worker.reset_config({"given": Assignment(1, "sets/a", {"method": "greedy"})})


def ends(worker: Trial, number: int = 1, *, doubt: bool = False) -> tuple[Record, bool]:
    """A trial's record, and whether the worker wants to leave."""
    given = Assignment(number, f"t-{number:05d}", {})
    facts = Facts(blocks=4) if number else None
    worker.reset_config({"given": given, "facts": facts, "doubt": doubt})
    while not (result := worker.step())["done"]:
        pass
    return json.loads(result["record"]), result["leave"]


@pytest.mark.parametrize(
    ("error", "doubt", "state", "leaves"),
    [
        (PlanError("no block [9]"), True, "fail", False),
        (torch.OutOfMemoryError("CUDA out of memory"), True, "fail", False),
        (TypeError("odd"), False, "fail", False),
        (TypeError("odd"), True, "broken", True),  # another process decides
        (ASSERT, True, "broken", True),
        (ASSERT, False, "fail", True),  # the trial's own, but this process is spoiled
        (OSError(errno.ENOSPC, "No space left on device"), False, "broken", True),
    ],
)
def test_what_is_no_trials_fault_is_given_back_and_a_spoiled_worker_leaves(
    make: Callable[..., Trial], error: Exception, doubt: bool, state: str, leaves: bool
) -> None:
    record, leave = ends(make(error), doubt=doubt)
    assert (record["state"], leave) == (state, leaves)
    assert str(error.args[-1]) in record["reason"]
    assert record["where"].startswith(f"{type(error).__name__} test_worker.py:")


def test_a_worker_that_fails_trial_after_trial_leaves(make: Callable[..., Trial]) -> None:
    worker = make(TypeError("odd"))
    assert [ends(worker)[1] for _ in range(ROW)] == [False] * (ROW - 1) + [True]
    worker = make(TypeError("odd"))
    found = []
    for error in (TypeError("odd"), None) * ROW:
        worker.space.error = error
        found.append(ends(worker)[1])
    assert found == [False] * 2 * ROW


def test_only_what_ends_a_trial_is_written_to_disk(
    make: Callable[..., Trial], tmp_path: Path
) -> None:
    ends(make(OSError("disk")))
    assert not (tmp_path / "results").exists()
    record, _ = ends(make(PlanError("no")))
    assert json.loads((tmp_path / "results/t-00001.json").read_text()) == record


def test_a_bench_that_cannot_open_is_said_by_warm_ups_and_trials(
    make: Callable[..., Trial], study: Any
) -> None:
    gone = study.model.model_copy(update={"id": "/no/such/model"})
    worker = make(model=gone)
    for result in (worker.step(), None):
        record = json.loads(result["record"]) if result else ends(worker)[0]
        assert record["state"] == "broken" and record["opening"]
        assert "/no/such/model" in record["reason"]


def test_a_result_that_cannot_be_written_travels_with_the_reason(
    make: Callable[..., Trial], tmp_path: Path
) -> None:
    (tmp_path / "results").write_text("a file")
    record, leave = ends(make())
    assert (record["state"], leave) == ("complete", False)
    assert "Error" in record["unsaved"]


def test_a_machine_that_does_not_see_the_drivers_folder_says_so(
    make: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    mark = tmp_path / "marker"
    other = Place(tmp_path / "results", (mark, "of this launch"))
    for content in (None, "of another launch"):
        if content:
            mark.write_text(content)
        record, _ = ends(make(place=other))
        assert record["unshared"] and not (tmp_path / "results").exists()
    assert from_text(record["scores"])["perplexity"].total() == record["metrics"]["perplexity"]
    mark.write_text("of this launch")
    record, _ = ends(make(place=other))
    assert "unshared" not in record and (tmp_path / "results").is_dir()


def test_what_items_scored_lies_beside_the_result_whoever_measured_it(
    make: Callable[..., Trial], tmp_path: Path
) -> None:
    first, second = (ends(make(), number)[0] for number in (0, 1))
    assert "scores" not in first and second["same_as"] == "study/0"
    one, other = (read_scores(tmp_path / f"scores/t-0000{number}.npz") for number in (0, 1))
    assert one is not None and other is not None
    for found in (one, other):
        assert found.fingerprint == first["data"]["search"]
        assert found["perplexity"].total() == first["metrics"]["perplexity"]
        assert list(found) == ["perplexity"]


HANG = """
import ctypes, time
from trainables.worker import Watchdog

dog = Watchdog(1 / 60)
with dog.on():
    time.sleep(0.2)
time.sleep(1.5)  # between two steps, and after a trial, no time runs
dog.start()
with dog.on():
    time.sleep(0.2)
print("so far", flush=True)
with dog.on():
    ctypes.PyDLL(None).sleep(60)  # holds Python's own lock, as a hung kernel would
print("never")
"""


def test_a_trial_that_hangs_in_one_step_ends_with_its_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout == "so far\n", done.stderr
    assert done.returncode != 0
    assert "Timeout" in done.stderr  # with the place where it hung


@pytest.fixture
def unlimited() -> Iterator[Watchdog]:
    yield Watchdog(None)


def test_without_a_limit_no_time_runs(unlimited: Watchdog) -> None:
    with unlimited.on():
        assert unlimited.left is None


@pytest.mark.parametrize(
    ("share", "device", "kept"),
    [(0.5, "cuda", [0.5]), (0.25, "cuda", [0.25]), (1.0, "cuda", []), (0.0, "cpu", []),
     (2.0, "cuda", []), (0.5, "cpu", [])],
)  # fmt: skip
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    share: float, device: str, kept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    keep_to(share, device)
    assert asked == kept
