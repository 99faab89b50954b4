"""The plug is pulled for real: a driver killed in the middle, and the same study resumed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from search.journal.results import Result
from search.journal.view import result_of
from search.launch import NOTED, Clock, Launch
from search.study.schema import Budget
from tests.support.journals import Sample, sample_study
from tests.support.launches import BUDGET, Driver, tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tiny_study(tmp_path)


def test_the_time_of_a_killed_launch_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, sample = [1000.0], Sample(tmp_path)
    monkeypatch.setattr("search.launch.time.time", lambda: now[0])
    for launch in range(2):
        clock = Clock(sample.journal)  # of a launch that is killed a moment after its last tick
        for _ in range(100):
            now[0] += 1.0
            clock.tick()
        noted = sample.journal.noted("seconds")
        assert 0 <= clock.seconds() - noted < NOTED
        assert noted > 100 * (launch + 1) - 2 * NOTED
    sample.close()


def test_a_study_whose_space_is_exhausted_is_done_whatever_its_budget(tmp_path: Path) -> None:
    sample = Sample(tmp_path, sample_study(budget=Budget(trials=99))).run()
    launch = Launch(sample.study, sample.store)
    assert not launch._done(sample.journal)
    sample.journal.note("exhausted", True)
    assert launch._done(sample.journal)
    sample.close()


def test_the_end_of_a_trial_looks_at_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, seen = Sample(tmp_path).run(), list[int]()

    def noted(row: FrozenTrial, **how: bool) -> Result:
        seen.append(row.number)
        return result_of(row, **how)

    monkeypatch.setattr("search.launch.result_of", noted)
    monkeypatch.setattr("search.journal.view.result_of", noted)
    mirror: Any = SimpleNamespace(offer=lambda: None)
    Launch(sample.study, sample.store)._ended(sample.journal, 2, mirror)
    assert seen == [2]
    sample.close()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    yield Driver(tmp_path)


def parents(folder: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    return [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # MLflow's and SQLAlchemy's own
def test_driver_killed_then_resumed_with_a_worker_killed(study: Path, driver: Driver) -> None:
    process = driver.start("launch", str(study))
    driver.wait_for(finished=4)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {row.number: row for row in driver.rows()}
    told = {n for n, row in before.items() if row.state == TrialState.COMPLETE}
    measured = driver.measured()
    assert json.loads(driver.run("status", "killed", "--json"))["state"] == "interrupted"

    process = driver.start("resume", "killed")
    worker = driver.wait_for_measurement(after=len(measured) + 1)
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said

    after = {row.number: row for row in driver.rows()}
    status = json.loads(driver.run("status", "killed", "--json"))
    again = status["trials"]["repeats"]  # models that were known take no place
    assert sorted(after) == list(range(BUDGET + again + 1))  # the baseline and the budget
    assert all(row.state == TrialState.COMPLETE for row in after.values())
    for number, row in before.items():
        assert after[number].params == row.params  # interrupted ones ran again as they were
    for number in told:
        assert after[number].values == before[number].values
        assert after[number].datetime_complete == before[number].datetime_complete
    done = {before[number].user_attrs["record"]["lineage"] for number in told}
    assert not done & {lineage for lineage, _ in driver.measured()[len(measured) :]}
    workers = {worker for _, worker in driver.measured()[len(measured) :]}
    assert len(workers) > 1  # another one took over

    counts = {"finished": BUDGET, "repeats": again, "failed": 0, "running": 0, "waiting": 0}
    assert status["trials"] == {**counts, "planned": BUDGET}
    assert len(parents(driver.folder)) == 1
    best = json.loads(driver.run("best", "killed", "--json", "--top", "3"))
    assert best["baseline"]["number"] == 0
    assert all(trial["run_id"] for trial in best["trials"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_finished_study_searches_on_with_a_larger_budget(study: Path, driver: Driver) -> None:
    driver.run("launch", str(study), "--trials", "2")
    first = {row.number: row.values for row in driver.rows()}
    driver.run("launch", str(study), "--trials", "4")
    rows = {row.number: row.values for row in driver.rows()}
    assert sorted(rows) == [0, 1, 2, 3, 4]
    assert all(rows[number] == values for number, values in first.items())
    said = driver.run("launch", str(study), "--trials", "4")  # nothing left to do
    assert "starting Ray" not in said


# -- trouble, told by the real command line --------------------------------------------------------


SPACE = """
from spaces.omission import OmissionSpace

class Mine(OmissionSpace):
    def starts(self, facts):
        raise KeyError("influence")
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_space_beside_the_study_that_raises_is_one_message_and_mended_it_goes_on(
    study: Path, driver: Driver
) -> None:
    (driver.folder / "my_space.py").write_text(SPACE)
    text = study.read_text().replace('name = "omission_wanda"', 'name = "my_space:Mine"')
    study.write_text(text)
    said = driver.run("launch", str(study), "--trials", "2", code=2)
    assert "my_space:Mine: starts() raised KeyError: 'influence' (my_space.py:6)" in said
    assert "Traceback" not in said
    assert [row.state for row in driver.rows()] == [TrialState.COMPLETE]
    (driver.folder / "my_space.py").write_text(
        SPACE.replace('raise KeyError("influence")', "return []")
    )
    driver.run("resume", "killed")
    again = json.loads(driver.run("status", "killed", "--json"))["trials"]["repeats"]
    assert [row.state for row in driver.rows()] == [TrialState.COMPLETE] * (3 + again)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_baseline_that_is_no_number_ends_at_once_and_is_measured_again(
    study: Path, driver: Driver
) -> None:
    scores = driver.folder / "my_scores.py"
    scores.write_text("def score(made):\n    return float('nan')\n")
    study.write_text(
        study.read_text().replace("tests.support.slow_metric:pause", "my_scores:score")
    )
    said = driver.run("launch", str(study), "--trials", "2", code=2)
    assert "no trial can run" in said and "nan" in said and "Traceback" not in said
    assert [row.state for row in driver.rows()] == [TrialState.RUNNING]
    scores.write_text("def score(made):\n    return 1.0\n")
    driver.run("resume", "killed")
    again = json.loads(driver.run("status", "killed", "--json"))["trials"]["repeats"]
    assert [row.state for row in driver.rows()] == [TrialState.COMPLETE] * (3 + again)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_hangs_is_stopped_fails_and_can_be_retried(
    study: Path, driver: Driver
) -> None:
    text = study.read_text().replace("slow_metric:pause", "slow_metric:hang")
    first = '[[first]]\n"omission.skip" = [2]\n[[first]]\n"omission.skip" = []\n'
    study.write_text(text.replace("[budget]", "[budget]\nminutes_per_trial = 0.1") + first)
    driver.run("launch", str(study), "--trials", "2")
    rows = driver.rows()
    assert [row.state.name for row in rows] == ["COMPLETE", "FAIL", "COMPLETE"]
    reason = rows[1].user_attrs["record"]["reason"]
    assert reason == "took longer than 0.1 minutes (budget.minutes_per_trial)"
    said = driver.run("resume", "killed", "--retry-failed")
    assert "1 failed trials run again" in said
    assert [row.state.name for row in driver.rows()] == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_shortcuts_a_study_comes_to_the_same(study: Path, driver: Driver) -> None:
    driver.run("launch", str(study), "--trials", "3")
    shared = [row.values for row in driver.rows()]
    naive = Driver(driver.folder / "naive")
    naive.folder.mkdir()
    naive.run("launch", str(study), "--trials", "3", "--naive")
    assert [row.values for row in naive.rows()] == shared


BREAKS = """
import os
from pathlib import Path

def score(made):
    log = Path(os.environ["RAYDUCE_TEST_LOG"])
    with log.open("a") as file:
        file.write(f"x {os.getpid()}\\n")
    mine = [line for line in log.read_text().splitlines() if line.endswith(f" {os.getpid()}")]
    if len(mine) > 2:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return 1.0
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_process_that_breaks_and_stays_broken_costs_no_trial(study: Path, driver: Driver) -> None:
    (driver.folder / "my_scores.py").write_text(BREAKS)
    text = study.read_text().replace("tests.support.slow_metric:pause", "my_scores:score")
    study.write_text(text)
    driver.run("launch", str(study), "--trials", "6", "--workers", "1")
    assert [row.state for row in driver.rows()] == [TrialState.COMPLETE] * 7
    processes = [process for _, process in driver.measured()]
    assert len(set(processes)) > 2
    assert max(map(processes.count, processes)) == 3  # the third one failed, and it left
