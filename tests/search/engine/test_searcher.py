"""The searcher without Ray's engine: what it hands out, and what it makes of each end."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from search.engine.dispatch import Plan
from search.engine.searcher import DEATHS, TRIES, JournalSearcher
from search.journal.journal import Journal
from search.journal.store import Store, open_storage
from tests.support.journals import record, sample_study
from trainables.core.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and SQLAlchemy's own
FACTS = {"blocks": 4}


def ask(trial: Any) -> None:
    trial.suggest_int("wanda.percent", 0, 50)


@pytest.fixture
def searcher(tmp_path: Path) -> JournalSearcher:
    study = sample_study()
    storage = open_storage(Store(tmp_path, study.name), create=True)
    journal = Journal(storage, study.name, study.objectives)

    def on_facts(facts: dict[str, Any]) -> Any:
        assert facts == FACTS
        journal.begin(RandomSampler(seed=0), [])
        return ask

    return JournalSearcher(Plan(journal, 3, math.inf, 2, on_facts, lambda: None))


def ended(searcher: JournalSearcher, config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    metrics = {"perplexity": 20.0 + config["number"], "parameters": 1e6}
    found = record(config["uid"], config["number"], metrics)
    found["facts"] = FACTS if config["number"] == 0 else None
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
    assert config["number"] == 0 and config["params"] == {} and config["facts"] is None
    assert handed(searcher, "warming")["number"] is None
    assert searcher.suggest("early") is None
    searcher.on_trial_complete("base", ended(searcher, config))
    assert handed(searcher, "one")["facts"] == FACTS
    assert searcher.suggest("two") is None  # its worker is still starting
    searcher.on_trial_complete("warming", {"done": True})
    assert handed(searcher, "two")["number"] == 2
    assert states(searcher) == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]


@pytest.mark.parametrize(("trials", "cold"), [(None, 1), (3, 1), (1, 0)])
def test_no_more_workers_start_than_trials_will_run(
    searcher: JournalSearcher, trials: int | None, cold: int
) -> None:
    assert replace(searcher.plan, trials=trials).cold == cold


def test_no_more_than_the_workers_at_a_time_and_the_budget_in_all(
    searcher: JournalSearcher,
) -> None:
    after_baseline(searcher)
    one, two = handed(searcher, "one"), handed(searcher, "two")
    assert searcher.suggest("three") is None
    searcher.on_trial_complete("one", ended(searcher, one))
    three = handed(searcher, "three")
    assert [c["number"] for c in (one, two, three)] == [1, 2, 3]
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
    assert handed(searcher, "two")["number"] == 2


def test_a_baseline_that_fails_ends_the_study_and_is_still_owed(
    searcher: JournalSearcher,
) -> None:
    config = handed(searcher, "base")
    searcher.on_trial_complete("base", ended(searcher, config, state="fail", reason="no text"))
    assert isinstance(searcher.plan.error, UserError)
    assert "no text" in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.RUNNING]


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
    searcher.plan.trials = 20
    after_baseline(searcher)
    for number in range(DEATHS):
        for _ in range(TRIES):
            assert handed(searcher, "tried")["number"] == number + 1
            searcher.on_trial_complete("tried", None, error=True)
    assert "died" in str(searcher.plan.error)
    assert searcher.suggest("next") == searcher.FINISHED
    assert states(searcher)[1:] == [TrialState.FAIL] * DEATHS
