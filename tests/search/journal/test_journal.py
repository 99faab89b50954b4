"""The journal: trials handed out, told, and owed again after a driver died at any point."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search.journal.journal import ATTEMPTS, Assignment, Journal, read_record
from search.samplers.build import make_sampler
from search.study.constraints import parse_constraint
from search.study.schema import SamplerSpec
from tests.support.journals import memory
from trainables.core.cache import write_durably
from trainables.core.errors import UserError

OBJECTIVES = {"perplexity": "min", "parameters": "min"}
LIMIT = parse_constraint("perplexity", "<= 150% of baseline")
POINT = {"depth": 3, "width": 7}


def ask(trial: optuna.Trial) -> None:
    trial.suggest_int("depth", 0, 9)
    trial.suggest_int("width", 0, 9)


def record(perplexity: float | None = 20.0, parameters: float = 100.0, **more: Any) -> Any:
    metrics = {"perplexity": perplexity, "parameters": parameters}
    kept = {name: value for name, value in metrics.items() if value is not None}
    return {"state": "complete", "reason": None, "metrics": kept, **more}


class Driver:
    """A journal on a storage that outlives it, as a database outlives a killed driver."""

    def __init__(self, storage: RDBStorage, results: Path, starts: Any = ()) -> None:
        self.results = results
        self.journal = Journal(storage, "depth", OBJECTIVES, {"perplexity": LIMIT})
        self.journal.reclaim(results)
        self.starts = starts

    def baseline(self) -> "Driver":
        handout = self.journal.hand_out(None)
        assert handout is not None
        self.journal.settle(0, record(facts={"blocks": 4}))
        return self.begin()

    def begin(self) -> "Driver":
        self.journal.begin(RandomSampler(seed=len(self.journal.trials())), self.starts)
        return self

    def hand_out(self) -> Assignment:
        handout = self.journal.hand_out(ask)
        assert handout is not None
        return handout

    def wrote(self, handout: Assignment, **changes: Any) -> None:
        """The worker's durable result."""
        text = json.dumps(record(**changes))
        write_durably(self.results / f"{handout.uid}.json", text)


@pytest.fixture
def storage() -> Iterator[RDBStorage]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = memory()
    yield made
    made.engine.dispose()


@pytest.fixture
def driver(storage: RDBStorage, tmp_path: Path) -> Driver:
    return Driver(storage, tmp_path).baseline()


def states(journal: Journal) -> list[str]:
    return [row.state.name for row in journal.trials()]


# -- handing out and telling ---------------------------------------------------------------------


def test_the_baseline_comes_first_and_has_no_parameters(
    storage: RDBStorage, tmp_path: Path
) -> None:
    journal = Driver(storage, tmp_path).journal
    handout = journal.hand_out(None)
    assert handout is not None
    assert (handout.number, handout.params) == (0, {})
    assert journal.baseline() is None
    journal.settle(0, record(facts={"blocks": 4}))
    assert journal.baseline() == {"perplexity": 20.0, "parameters": 100.0}
    assert journal.noted("facts") == {"blocks": 4}
    assert journal.trials()[0].user_attrs["record"]["facts"] is None


def test_a_trial_is_running_until_told_and_then_has_it_all(driver: Driver) -> None:
    handout = driver.hand_out()
    row = driver.journal.trials()[1]
    assert row.state == TrialState.RUNNING
    assert row.params == handout.params
    assert row.datetime_start is not None and row.datetime_complete is None
    driver.journal.settle(1, record(25.0, 90.0, lineage="abc"))
    row = driver.journal.trials()[1]
    assert row.state == TrialState.COMPLETE
    assert row.values == [25.0, 90.0]
    assert row.user_attrs["record"]["lineage"] == "abc"
    assert row.datetime_complete is not None


def test_a_uid_names_the_study_and_the_number(driver: Driver, tmp_path: Path) -> None:
    other = Driver(memory(), tmp_path / "other").journal
    assert driver.hand_out().uid == f"{driver.journal.token}-00001"
    assert other.uid(1) != driver.journal.uid(1)


@pytest.mark.parametrize(("perplexity", "miss"), [(29.0, False), (30.0, False), (31.0, True)])
def test_a_constraint_is_measured_against_the_baseline(
    driver: Driver, perplexity: float, miss: bool
) -> None:
    handout = driver.hand_out()
    driver.journal.settle(handout.number, record(perplexity))
    violation = driver.journal.trials()[1].constraints["perplexity"]
    assert (violation > 0) is miss
    assert violation == LIMIT.violation(perplexity, 20.0)
    copied = driver.journal.copy
    assert copied is not None
    assert copied.study.trials[0].constraints == {"perplexity": violation}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (record(math.nan), "perplexity was nan"),
        (record(math.inf), "perplexity was inf"),
        (record(None), "perplexity was not measured"),
        ({"state": "fail", "reason": "out of memory: 3 GB", "metrics": {}}, "out of memory: 3 GB"),
    ],
)
def test_what_cannot_be_used_is_a_failed_trial_with_its_reason(
    driver: Driver, told: Any, reason: str
) -> None:
    number = driver.hand_out().number
    driver.journal.settle(number, told)
    row = driver.journal.trials()[number]
    assert row.state == TrialState.FAIL
    assert row.user_attrs["record"]["reason"] == reason
    assert row.user_attrs["record"]["metrics"] == {}
    driver.hand_out()  # the study goes on


def test_a_space_that_raises_is_a_failed_trial_and_the_next_one_runs(driver: Driver) -> None:
    def refuse(trial: optuna.Trial) -> None:
        trial.suggest_int("depth", 0, 9)
        raise ValueError("depth and width do not fit")

    assert driver.journal.hand_out(refuse) is None
    row = driver.journal.trials()[1]
    assert row.state == TrialState.FAIL
    assert row.user_attrs["record"]["reason"] == (
        "the space refused: ValueError: depth and width do not fit"
    )
    assert list(row.params) == ["depth"]
    assert driver.hand_out().number == 2


def test_a_stopped_trial_is_pruned_with_its_progress(driver: Driver) -> None:
    number = driver.hand_out().number
    driver.journal.stop(number, {"loss": 3.5})
    row = driver.journal.trials()[number]
    assert row.state == TrialState.PRUNED
    assert row.user_attrs["record"]["progress"] == {"loss": 3.5}


# -- a driver that dies --------------------------------------------------------------------------


def test_killed_before_the_result_the_trial_is_owed_with_number_and_parameters(
    driver: Driver, storage: RDBStorage
) -> None:
    before = driver.hand_out()
    resumed = Driver(storage, driver.results).begin()
    assert resumed.hand_out() == before
    assert states(resumed.journal) == ["COMPLETE", "RUNNING"]
    resumed.journal.settle(before.number, record(25.0))
    assert resumed.hand_out().number == 2
    copied = resumed.journal.copy
    assert copied is not None
    assert copied.study.trials[0].values == [25.0, 100.0]


def test_killed_after_the_durable_result_the_trial_is_told_and_not_run_again(
    driver: Driver, storage: RDBStorage
) -> None:
    handout = driver.hand_out()
    driver.wrote(handout, perplexity=33.0)
    resumed = Driver(storage, driver.results).begin()
    assert states(resumed.journal) == ["COMPLETE", "COMPLETE"]
    row = resumed.journal.trials()[1]
    assert row.values == [33.0, 100.0]
    assert row.constraints["perplexity"] > 0
    assert resumed.hand_out().number == 2


def test_killed_while_the_baseline_ran_the_baseline_runs_again(
    storage: RDBStorage, tmp_path: Path
) -> None:
    Driver(storage, tmp_path).journal.hand_out(None)
    resumed = Driver(storage, tmp_path).journal
    handout = resumed.hand_out(None)
    assert handout is not None
    assert handout.number == 0
    assert states(resumed) == ["RUNNING"]


def test_killed_after_the_baselines_result_it_is_told_with_its_facts(
    storage: RDBStorage, tmp_path: Path
) -> None:
    before = Driver(storage, tmp_path)
    handout = before.journal.hand_out(None)
    assert handout is not None
    before.wrote(handout, facts={"blocks": 4})
    resumed = Driver(storage, tmp_path).journal
    assert resumed.baseline() == {"perplexity": 20.0, "parameters": 100.0}
    assert resumed.noted("facts") == {"blocks": 4}


def test_killed_while_the_baseline_was_told_its_facts_are_not_lost(
    storage: RDBStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Driver(storage, tmp_path)
    handout = before.journal.hand_out(None)
    assert handout is not None
    before.wrote(handout, facts={"blocks": 4})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(before.journal.rows, "end", killed)
    with pytest.raises(KeyboardInterrupt):
        before.journal.settle(0, record(facts={"blocks": 4}))
    resumed = Driver(storage, tmp_path).journal
    assert resumed.baseline() is not None
    assert resumed.noted("facts") == {"blocks": 4}


@pytest.mark.parametrize(
    "bad",
    [
        {"state": "fail", "reason": "FileNotFoundError: scores.txt", "metrics": {}},
        record(perplexity=math.nan),
        record(perplexity=None),
    ],
)
def test_a_baseline_that_failed_is_not_told_and_is_measured_again(
    bad: dict[str, Any], storage: RDBStorage, tmp_path: Path
) -> None:
    first = Driver(storage, tmp_path)
    handout = first.journal.hand_out(None)
    assert handout is not None
    write_durably(tmp_path / f"{handout.uid}.json", json.dumps(bad))
    with pytest.raises(UserError, match="the untouched model was not measured"):
        first.journal.settle(0, bad)
    again = Driver(storage, tmp_path).journal
    assert again.baseline() is None
    assert again.hand_out(None) == handout
    again.settle(0, record())
    assert [row.state for row in again.trials()] == [TrialState.COMPLETE]


def test_no_trial_is_handed_out_without_a_baseline(storage: RDBStorage, tmp_path: Path) -> None:
    journal = Driver(storage, tmp_path).journal
    assert journal.hand_out(None) is not None
    for _ in range(2):  # one is being measured, and another launch may have seen it fail
        with pytest.raises(UserError, match="no measurement of the untouched model"):
            journal.hand_out(None)
    assert len(journal.trials()) == 1


def test_killed_after_all_was_told_nothing_is_owed(driver: Driver, storage: RDBStorage) -> None:
    driver.journal.settle(driver.hand_out().number, record())
    assert Driver(storage, driver.results).journal.owed == []


def test_several_are_owed_in_their_order(driver: Driver, storage: RDBStorage) -> None:
    handed = [driver.hand_out() for _ in range(3)]
    driver.journal.settle(handed[1].number, record())
    resumed = Driver(storage, driver.results).begin()
    assert [resumed.hand_out() for _ in range(2)] == [handed[0], handed[2]]


@pytest.mark.parametrize("text", ["", '{"state": "comp', '{"state": "broken", "reason": "x"}'])
def test_a_torn_or_a_broken_result_leaves_the_trial_owed(
    driver: Driver, storage: RDBStorage, text: str
) -> None:
    handout = driver.hand_out()
    (driver.results / f"{handout.uid}.json").write_text(text)
    assert Driver(storage, driver.results).begin().hand_out() == handout


def test_a_trial_that_is_interrupted_again_and_again_fails(
    driver: Driver, storage: RDBStorage
) -> None:
    first = driver.hand_out()
    for _ in range(ATTEMPTS - 1):
        assert Driver(storage, driver.results).begin().hand_out() == first
    last = Driver(storage, driver.results).begin()
    assert last.journal.owed == []
    row = last.journal.trials()[1]
    assert row.state == TrialState.FAIL
    assert f"interrupted {ATTEMPTS} times" in row.user_attrs["record"]["reason"]


def test_the_baseline_is_owed_however_often_it_was_interrupted(
    storage: RDBStorage, tmp_path: Path
) -> None:
    for _ in range(ATTEMPTS + 2):
        assert Driver(storage, tmp_path).journal.hand_out(None) is not None
    assert states(Driver(storage, tmp_path).journal) == ["RUNNING"]


def test_the_token_and_so_the_uids_stay_over_drivers(driver: Driver, storage: RDBStorage) -> None:
    assert Driver(storage, driver.results).journal.token == driver.journal.token


# -- starting points and the sampler's copy ------------------------------------------------------


def test_starting_points_come_first_and_only_once(storage: RDBStorage, tmp_path: Path) -> None:
    starts = [POINT, {"depth": 5}, {"depth": 6, "width": 6}]
    first = Driver(storage, tmp_path, starts).baseline()
    assert first.hand_out().params == POINT
    assert first.hand_out().params["depth"] == 5
    resumed = Driver(storage, tmp_path, starts).begin()
    handed = [resumed.hand_out() for _ in range(5)]
    assert [one.number for one in handed] == [1, 2, 3, 4, 5]
    assert handed[2].params == {"depth": 6, "width": 6}
    assert [row.user_attrs.get("start") for row in resumed.journal.trials()] == [
        None, *starts, None, None,
    ]  # fmt: skip


def test_points_added_at_a_relaunch_are_tried_and_the_old_ones_not_again(
    storage: RDBStorage, tmp_path: Path
) -> None:
    old, new = [POINT, {"depth": 5}], {"depth": 8, "width": 1}
    first = Driver(storage, tmp_path, old).baseline()
    for _ in old:
        first.journal.settle(first.hand_out().number, record())
    resumed = Driver(storage, tmp_path, [new, *old, new]).begin()
    assert resumed.journal.points == [new]
    assert resumed.hand_out().params == new
    assert Driver(storage, tmp_path, [new, *old]).begin().journal.points == []


def test_points_are_known_by_their_content_in_journals_that_counted_them(
    storage: RDBStorage, tmp_path: Path
) -> None:
    first = Driver(storage, tmp_path, [POINT, {"depth": 5}]).baseline()
    for place in (3, 0):
        number = first.hand_out().number
        first.journal.rows.mark(number, "start", place)
        first.journal.settle(number, record())
    starts = [{"depth": 8}, {"depth": 5}, POINT, {"depth": 3}]
    assert Driver(storage, tmp_path, starts).begin().journal.points == [{"depth": 8}]


# -- what a study began with ---------------------------------------------------------------------

ORIGIN = {"base": "m1", "data": {"calibration": "c1", "search": "s1"}}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"base": "m2"}, "the model"),
        ({"data": {"calibration": "c1", "search": "s2"}}, "the search data"),
        ({"base": "m2", "data": {"calibration": "c2"}}, "the model and the calibration data"),
    ],
)
def test_what_was_made_from_another_model_or_other_data_is_refused_and_owed(
    storage: RDBStorage, tmp_path: Path, changed: Any, named: str
) -> None:
    first = Driver(storage, tmp_path)
    first.journal.hand_out(None)
    first.journal.settle(0, record(facts={"blocks": 4}, **ORIGIN))
    handout = first.begin().hand_out()
    other = record(**(ORIGIN | changed))
    with pytest.raises(UserError, match=f"depth: {named} changed since its baseline.*new name"):
        first.journal.settle(handout.number, other)
    assert states(first.journal) == ["COMPLETE", "RUNNING"]
    first.wrote(handout, **(ORIGIN | changed))
    resumed = Driver(storage, tmp_path).begin()
    assert resumed.hand_out() == handout  # its file is not taken for a result of this study
    resumed.journal.settle(handout.number, record(**ORIGIN))
    assert states(resumed.journal) == ["COMPLETE", "COMPLETE"]


def test_a_failed_trial_says_nothing_of_its_origin(driver: Driver) -> None:
    number = driver.hand_out().number
    driver.journal.settle(number, {"state": "fail", "reason": "out of memory", "metrics": {}})
    assert states(driver.journal)[number] == "FAIL"


def test_after_a_resume_the_sampler_knows_what_the_rows_hold(
    driver: Driver, storage: RDBStorage
) -> None:
    for perplexity in (21.0, 45.0, math.nan):
        driver.journal.settle(driver.hand_out().number, record(perplexity))
    driver.hand_out()
    resumed = Driver(storage, driver.results).begin().journal
    assert resumed.copy is not None
    rows, copied = resumed.trials()[1:], resumed.copy.study.get_trials()
    for one in ("params", "values", "state", "constraints", "distributions"):
        assert [getattr(row, one) for row in copied] == [getattr(row, one) for row in rows]
    assert resumed.copy.study.directions == resumed.rows.directions


def test_an_uninterrupted_copy_equals_the_rows_too(driver: Driver) -> None:
    for perplexity in (21.0, 45.0, math.nan):
        driver.journal.settle(driver.hand_out().number, record(perplexity))
    assert driver.journal.copy is not None
    rows, copied = driver.journal.trials()[1:], driver.journal.copy.study.get_trials()
    for one in ("params", "values", "state", "constraints"):
        assert [getattr(row, one) for row in copied] == [getattr(row, one) for row in rows]


def test_a_resumed_sampler_does_not_propose_the_first_drivers_points_again(
    storage: RDBStorage, tmp_path: Path
) -> None:
    def wide(trial: optuna.Trial) -> None:
        trial.suggest_int("depth", 0, 1_000_000)

    def proposals(journal: Journal) -> list[Any]:
        sampler = make_sampler(
            SamplerSpec(name="tpe"),
            seed=1,
            existing=len(journal.trials()),
            trials=40,
            ask=wide,
        )
        assert isinstance(sampler, TPESampler)
        journal.begin(sampler, [])
        found = []
        for _ in range(4):
            handout = journal.hand_out(wide)
            assert handout is not None
            journal.settle(handout.number, record(20.0 + handout.number))
            found.append(handout.params)
        return found

    first = proposals(Driver(storage, tmp_path).baseline().journal)
    again = proposals(Driver(storage, tmp_path).journal)
    assert not any(point in first for point in again)


def test_a_record_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    assert read_record(path) is None
    path.write_text('{"state":')
    assert read_record(path) is None
    path.write_text('{"state": "fail"}')
    assert read_record(path) == {"state": "fail"}


# -- what failed, tried again ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blame", "again"),
    [("code", True), ("worker", True), ("time", True), ("candidate", False), (None, False)],
)
def test_what_failed_by_no_fault_of_its_own_can_be_retried(
    driver: Driver, storage: Any, blame: str | None, again: bool
) -> None:
    given = driver.hand_out()
    failed = {"state": "fail", "reason": "TypeError: odd", "metrics": {}}
    failed |= {"blame": blame} if blame else {}
    driver.journal.settle(1, failed)
    write_durably(driver.results / f"{given.uid}.json", json.dumps(failed))
    journal = Journal(storage, "depth", OBJECTIVES, {"perplexity": LIMIT})
    assert journal.retry(driver.results) == again
    journal.reclaim(driver.results)
    assert [row.number for row in journal.owed] == [1] * again
    if again:
        journal.begin(RandomSampler(seed=0), [])
        assert journal.hand_out(ask) == given
        journal.settle(1, record(21.0))
    reread = Journal(storage, "depth", OBJECTIVES, {"perplexity": LIMIT})
    assert [row.state for row in reread.trials()] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE if again else TrialState.FAIL,
    ]
