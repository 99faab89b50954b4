"""The searcher without Ray's engine: what it hands out, and what it makes of each end."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from search.engine.dispatch import Plan
from search.engine.searcher import DEATHS, REFUSALS, TRIES, JournalSearcher
from search.journal.journal import Journal
from search.journal.store import Store, open_storage
from search.samplers.grid import GridSampler, grid_points
from search.study.constraints import parse_constraint
from search.study.schema import Budget
from tests.support.journals import record, sample_study
from trainables.core.errors import UserError
from trainables.stage import Facts

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and SQLAlchemy's own
FACTS = Facts(blocks=4)


def ask(trial: Any) -> None:
    trial.suggest_int("wanda.percent", 0, 50)


@pytest.fixture
def searcher(tmp_path: Path) -> JournalSearcher:
    return JournalSearcher(plan(tmp_path))


def plan(folder: Path, **changes: Any) -> Plan:
    """A launch of three trials on two workers."""
    study = sample_study()
    storage = open_storage(Store(folder, study.name), create=True)
    limits = {"accuracy": parse_constraint("parameters", "<= 130% of baseline")}
    journal = Journal(storage, study.name, study.objectives, limits)
    journal.reclaim(folder / "results")

    def on_facts(facts: Facts) -> Any:
        assert facts.blocks == FACTS.blocks
        journal.begin(RandomSampler(seed=0), [])
        return ask

    given = {"budget": Budget(trials=3), "workers": 2, "on_facts": on_facts}
    return Plan(journal, seconds=lambda: 0.0, on_end=lambda number: None, **given | changes)


def ended(searcher: JournalSearcher, config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = config["given"]
    metrics = {"perplexity": 20.0 + given.number, "parameters": 1e6}
    found = record(given.uid, given.number, metrics)
    found["facts"] = asdict(FACTS) if given.number == 0 else None
    return {"record": json.dumps(found | changes), "done": True}


def handed(searcher: JournalSearcher, trial_id: str) -> dict[str, Any]:
    config = searcher.suggest(trial_id)
    assert isinstance(config, dict)
    return config


def after_baseline(searcher: JournalSearcher) -> None:
    searcher.on_trial_complete("base", ended(searcher, handed(searcher, "base")))


def states(searcher: JournalSearcher) -> list[TrialState]:
    return [row.state for row in searcher.plan.journal.trials()]


def test_beside_the_baseline_the_other_workers_start_and_nothing_else(
    searcher: JournalSearcher,
) -> None:
    config = handed(searcher, "base")
    assert config["given"].number == 0 and config["given"].params == {}
    assert config["facts"] is None
    assert handed(searcher, "warming")["given"] is None
    assert searcher.suggest("early") is None
    searcher.on_trial_complete("base", ended(searcher, config))
    assert handed(searcher, "one")["facts"].blocks == 4
    assert searcher.suggest("two") is None  # its worker is still starting
    searcher.on_trial_complete("warming", {"done": True})
    assert handed(searcher, "two")["given"].number == 2
    assert states(searcher) == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]


@pytest.mark.parametrize(("trials", "cold"), [(None, 1), (3, 1), (1, 0)])
def test_no_more_workers_start_than_trials_will_run(
    searcher: JournalSearcher, trials: int | None, cold: int
) -> None:
    assert replace(searcher.plan, budget=Budget(trials=trials)).cold == cold


def test_no_more_than_the_workers_at_a_time_and_the_budget_in_all(
    searcher: JournalSearcher,
) -> None:
    after_baseline(searcher)
    one, two = handed(searcher, "one"), handed(searcher, "two")
    assert searcher.suggest("three") is None
    searcher.on_trial_complete("one", ended(searcher, one))
    three = handed(searcher, "three")
    assert [c["given"].number for c in (one, two, three)] == [1, 2, 3]
    searcher.on_trial_complete("two", ended(searcher, two))
    assert searcher.suggest("four") is None  # the third may still come back
    searcher.on_trial_complete("three", ended(searcher, three))
    assert searcher.suggest("four") == searcher.FINISHED


def test_a_trial_whose_worker_died_is_handed_out_again(searcher: JournalSearcher) -> None:
    after_baseline(searcher)
    config = handed(searcher, "one")
    searcher.on_trial_complete("one", None, error=True)
    assert handed(searcher, "again") == config
    searcher.on_trial_complete("again", ended(searcher, config))
    assert states(searcher)[1:] == [TrialState.COMPLETE]


def test_a_failed_trial_keeps_its_reason_and_the_study_goes_on(searcher: JournalSearcher) -> None:
    after_baseline(searcher)
    config = handed(searcher, "one")
    failed = ended(searcher, config, state="fail", reason="perplexity is nan")
    searcher.on_trial_complete("one", failed)
    row = searcher.plan.journal.trials()[1]
    assert row.state == TrialState.FAIL
    assert row.user_attrs["record"]["reason"] == "perplexity is nan"
    assert handed(searcher, "two")["given"].number == 2


def test_a_baseline_that_fails_ends_the_study_and_is_still_owed(
    searcher: JournalSearcher,
) -> None:
    config = handed(searcher, "base")
    searcher.on_trial_complete("base", ended(searcher, config, state="fail", reason="no text"))
    assert isinstance(searcher.plan.error, UserError)
    assert "no text" in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.RUNNING]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_baseline_without_its_metric_ends_the_study_and_is_measured_again(
    searcher: JournalSearcher, tmp_path: Path, bad: float | None
) -> None:
    config = handed(searcher, "base")
    metrics = {"perplexity": bad, "parameters": 1e6} if bad else {"parameters": 1e6}
    searcher.on_trial_complete("base", ended(searcher, config, metrics=metrics))
    assert "the untouched model was not measured: perplexity" in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.RUNNING]
    again = JournalSearcher(plan(tmp_path))
    assert handed(again, "base") == config
    after = ended(again, config)
    again.on_trial_complete("base", after)
    assert handed(again, "one")["given"].number == 1


@pytest.mark.parametrize("error", [TypeError("no survey"), KeyError("sampler"), UserError("no")])
def test_what_is_raised_once_there_are_facts_ends_the_study_before_any_trial(
    error: Exception, tmp_path: Path
) -> None:
    def on_facts(facts: Facts) -> Any:
        raise error

    searcher = JournalSearcher(plan(tmp_path, on_facts=on_facts))
    after_baseline(searcher)
    assert isinstance(searcher.plan.error, UserError)
    assert str(error) in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.COMPLETE]


@pytest.mark.parametrize("call", ["ask", "tell"])
def test_a_journal_that_raises_ends_the_study_with_one_message(
    searcher: JournalSearcher, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_baseline(searcher)
    one = handed(searcher, "one")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    if call == "ask":
        monkeypatch.setattr(searcher.plan.journal, "hand_out", broken)
        assert searcher.suggest("two") is None
    else:
        monkeypatch.setattr(searcher.plan.journal, "settle", broken)
        searcher.on_trial_complete("one", ended(searcher, one))
    assert "OSError: disk full" in str(searcher.plan.error)
    assert "rayduce resume depth" in str(searcher.plan.error)
    assert searcher.suggest("three") == searcher.FINISHED


def test_facts_are_read_once_not_for_every_trial(
    searcher: JournalSearcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_baseline(searcher)
    monkeypatch.setattr(Facts, "read", lambda data: pytest.fail("read again"))
    monkeypatch.setattr(searcher.plan.journal, "noted", lambda key: pytest.fail("read again"))
    assert handed(searcher, "one")["facts"] is handed(searcher, "two")["facts"]


def test_a_stop_by_the_scheduler_is_pruned_with_its_progress(searcher: JournalSearcher) -> None:
    after_baseline(searcher)
    handed(searcher, "one")
    searcher.on_trial_complete("one", {"accuracy": 0.5, "done": True})
    row = searcher.plan.journal.trials()[1]
    assert row.state == TrialState.PRUNED
    assert row.user_attrs["record"]["progress"] == {"accuracy": 0.5}


def test_a_stopped_driver_leaves_its_trials_owed(searcher: JournalSearcher) -> None:
    after_baseline(searcher)
    handed(searcher, "one")
    handed(searcher, "two")
    searcher.on_trial_complete("one", None)
    searcher.on_trial_complete("two", {"accuracy": 0.5, "done": False})
    assert states(searcher)[1:] == [TrialState.RUNNING] * 2


def test_when_workers_keep_dying_it_is_not_the_trials(searcher: JournalSearcher) -> None:
    searcher.plan.budget = Budget(trials=20)
    after_baseline(searcher)
    for number in range(DEATHS):
        for _ in range(TRIES):
            assert handed(searcher, "tried")["given"].number == number + 1
            searcher.on_trial_complete("tried", None, error=True)
    assert "died" in str(searcher.plan.error)
    assert searcher.suggest("next") == searcher.FINISHED
    assert states(searcher)[1:] == [TrialState.FAIL] * DEATHS


# -- what a space and a sampler can do -------------------------------------------------------------


def with_space(folder: Path, space: Any, sampler: BaseSampler, **changes: Any) -> JournalSearcher:
    """A searcher whose baseline is measured."""
    made = plan(folder, **changes)

    def on_facts(facts: Facts) -> Any:
        made.journal.begin(sampler, [])
        return space

    made.on_facts = on_facts
    searcher = JournalSearcher(made)
    after_baseline(searcher)
    return searcher


def test_a_space_that_always_raises_ends_a_study_without_a_number_of_trials(
    tmp_path: Path,
) -> None:
    def broken(trial: Any) -> None:
        raise KeyError("influence")

    searcher = with_space(tmp_path, broken, RandomSampler(), budget=Budget(hours=8))
    searcher.suggest("one")
    assert searcher.suggest("two") == searcher.FINISHED
    assert "the space refused: KeyError: 'influence'" in str(searcher.plan.error)
    assert states(searcher)[1:] == [TrialState.FAIL] * REFUSALS


def test_a_space_may_refuse_now_and_then(tmp_path: Path) -> None:
    def picky(trial: Any) -> None:
        if trial.number % REFUSALS:
            raise ValueError("no such combination")

    searcher = with_space(tmp_path, picky, RandomSampler(), budget=Budget(trials=3 * REFUSALS))
    for _ in range(3):
        searcher.on_trial_complete("one", ended(searcher, handed(searcher, "one")))
    assert searcher.plan.error is None
    assert states(searcher).count(TrialState.COMPLETE) == 4


def test_a_grid_is_done_when_it_is_through_whatever_the_budget(tmp_path: Path) -> None:
    def space(trial: Any) -> None:
        if trial.suggest_int("n", 0, REFUSALS + 3) > 1:
            raise ValueError("too many")

    grid = GridSampler(grid_points(space), seed=0)
    searcher = with_space(tmp_path, space, grid, budget=Budget(trials=99))
    while isinstance(config := searcher.suggest("one"), dict):
        searcher.on_trial_complete("one", ended(searcher, config))
    assert searcher.plan.error is None
    assert len(states(searcher)) == 1 + REFUSALS + 4
    assert searcher.plan.journal.noted("exhausted") is True


@pytest.mark.parametrize("method", ["before_trial", "sample_relative", "sample_independent"])
def test_a_sampler_that_raises_is_told_as_the_samplers_trouble(method: str, tmp_path: Path) -> None:
    class Broken(RandomSampler):
        pass

    def broken(self: Broken, *_: object) -> Any:
        raise IndexError("empty population")

    setattr(Broken, method, broken)
    searcher = with_space(tmp_path, ask, Broken())
    searcher.suggest("one")
    assert "sampler Broken raised IndexError: empty population" in str(searcher.plan.error)
    assert states(searcher) == [TrialState.COMPLETE], "no trial fails of it"
