"""The searcher without Ray's engine: what it hands out, and what it makes of each end."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from search.engine.dispatch import REFUSALS, Nobody, Plan
from search.engine.searcher import GIVEN_UP, WorkSearcher
from search.engine.trouble import (
    AGREED,
    AT_ONE_LINE,
    AT_ONE_LINE_LATER,
    DEATHS,
    TRIES,
    TROUBLES,
)
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
def searcher(tmp_path: Path) -> WorkSearcher:
    return WorkSearcher(plan(tmp_path))


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

    given = {"budget": Budget(trials=3), "places": Nodes(2), "on_facts": on_facts}
    given |= {"seconds": lambda: 0.0, "on_end": lambda number: None, "watcher": Heard()}
    return Plan(journal, **given | changes)


@dataclass
class Nodes:
    """Some room, on nodes `a` and `b`."""

    room: int
    struck: list[str] = field(default_factory=list)
    worked: list[str] = field(default_factory=list)
    full: int = 0

    def slots(self) -> int:
        return self.room if self.left() else 0

    def works(self, node: str) -> None:
        self.worked.append(node)

    def strike(self, node: str) -> None:
        self.struck.append(node)

    def left(self) -> bool:
        return not {"a", "b"} <= set(self.struck)

    def lack(self) -> UserError:
        return UserError("resources: no node can hold a trial")

    def waiting(self) -> int:
        return self.full


class Heard(Nobody):
    """A watcher who remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def phase(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Time passes by hand."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("time.monotonic", lambda: now.seconds)
    yield now


DIED = RayActorError(error_msg="The actor is dead. Worker exit detail: Killed by somebody.")


def dies(searcher: WorkSearcher, trial_id: str, error: Exception = DIED) -> None:
    searcher.on_trial_complete(trial_id, None, error=True)
    searcher.died(trial_id, error)


def gives_back(
    searcher: WorkSearcher, trial_id: str, config: dict[str, Any], blame: str, **more: Any
) -> None:
    changes = {"state": "broken", "blame": blame, "metrics": {}, "worker": "host pid 7"} | more
    searcher.on_trial_complete(trial_id, ended(searcher, config, **changes))


def ended(searcher: WorkSearcher, config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = config["given"]
    metrics = {"perplexity": 20.0 + given.number, "parameters": 1e6}
    found = record(given.uid, given.number, metrics)
    found["facts"] = asdict(FACTS) if given.number == 0 else None
    return {"record": json.dumps(found | changes), "done": True}


def handed(searcher: WorkSearcher, trial_id: str) -> dict[str, Any]:
    config = searcher.suggest(trial_id)
    assert isinstance(config, dict), searcher.plan.error
    return config


def after_baseline(searcher: WorkSearcher) -> None:
    searcher.on_trial_complete("base", ended(searcher, handed(searcher, "base")))


def states(searcher: WorkSearcher) -> list[TrialState]:
    return [row.state for row in searcher.plan.journal.trials()]


def test_beside_the_baseline_the_other_workers_start_and_nothing_else(
    searcher: WorkSearcher,
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
    searcher: WorkSearcher, trials: int | None, cold: int
) -> None:
    searcher.plan.budget = Budget(trials=trials)
    handed(searcher, "base")
    warming = [searcher.suggest(f"warming {number}") for number in range(3)]
    assert sum(one is not None for one in warming) == cold


@pytest.mark.parametrize("blame", ["code", "process", "place"])
def test_where_nothing_opens_the_study_ends_with_the_reason(
    searcher: WorkSearcher, clock: SimpleNamespace, blame: str
) -> None:
    for tried in range(20):
        clock.seconds += 100.0
        config = searcher.suggest(f"base {tried}")
        if not isinstance(config, dict):
            break
        why = {"reason": "ValueError: no header", "opening": True}
        gives_back(searcher, f"base {tried}", config, blame, **why)
    error = searcher.plan.error
    assert error is not None and "no trial can run: ValueError: no header" in str(error)


def test_nodes_that_join_later_are_used(searcher: WorkSearcher) -> None:
    searcher.plan.budget = Budget(hours=1)
    after_baseline(searcher)
    handed(searcher, "one"), handed(searcher, "two")
    assert searcher.suggest("three") is None
    searcher.plan.places.room = 4  # type: ignore[attr-defined]
    assert handed(searcher, "three")["given"].number == 3


def test_without_a_node_that_can_hold_a_trial_it_waits_with_a_word_and_not_for_ever(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    searcher.plan.places.room = 0  # type: ignore[attr-defined]
    for _ in range(130):
        assert searcher.suggest("base") is None
        clock.seconds += 1.0
    words = [text for text in searcher.plan.watcher.said if "no node can hold" in text]  # type: ignore[attr-defined]
    assert len(words) == 3  # at once, and every minute
    searcher.plan.places.room = 1  # type: ignore[attr-defined]
    assert handed(searcher, "base")["given"].number == 0


def test_a_node_that_never_comes_ends_the_study(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    searcher.plan.places.room = 0  # type: ignore[attr-defined]
    searcher.suggest("base")
    clock.seconds += GIVEN_UP + 1
    searcher.suggest("base")
    assert "no node can hold a trial" in str(searcher.plan.error)
    assert states(searcher) == []


def test_a_trial_that_waits_for_room_is_said_every_minute(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    after_baseline(searcher)
    handed(searcher, "one")
    for full, words in ((0, 0), (1, 3)):  # room, but the worker is slow to start; no room
        searcher.plan.places.full = full  # type: ignore[attr-defined]
        for _ in range(130):
            searcher.tick()
            clock.seconds += 1.0
        said = searcher.plan.watcher.said  # type: ignore[attr-defined]
        assert sum("no room for a further trial" in text for text in said) == words
    searcher.started("one")
    clock.seconds += 100.0
    searcher.tick()
    assert sum("no room" in text for text in said) == 3


def test_no_more_than_the_workers_at_a_time_and_the_budget_in_all(
    searcher: WorkSearcher,
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


def test_a_trial_whose_worker_died_is_handed_out_again(searcher: WorkSearcher) -> None:
    after_baseline(searcher)
    config = handed(searcher, "one")
    searcher.started("one")
    dies(searcher, "one")
    assert handed(searcher, "again") == config
    searcher.on_trial_complete("again", ended(searcher, config))
    assert states(searcher)[1:] == [TrialState.COMPLETE]


def test_a_failed_trial_keeps_its_reason_and_the_study_goes_on(searcher: WorkSearcher) -> None:
    after_baseline(searcher)
    config = handed(searcher, "one")
    failed = ended(searcher, config, state="fail", reason="perplexity is nan")
    searcher.on_trial_complete("one", failed)
    row = searcher.plan.journal.trials()[1]
    assert row.state == TrialState.FAIL
    assert row.user_attrs["record"]["reason"] == "perplexity is nan"
    assert handed(searcher, "two")["given"].number == 2


def test_a_baseline_that_fails_ends_the_study_and_is_still_owed(
    searcher: WorkSearcher,
) -> None:
    config = handed(searcher, "base")
    searcher.on_trial_complete("base", ended(searcher, config, state="fail", reason="no text"))
    assert isinstance(searcher.plan.error, UserError)
    assert "no text" in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.RUNNING]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_baseline_without_its_metric_ends_the_study_and_is_measured_again(
    searcher: WorkSearcher, tmp_path: Path, bad: float | None
) -> None:
    config = handed(searcher, "base")
    metrics = {"perplexity": bad, "parameters": 1e6} if bad else {"parameters": 1e6}
    searcher.on_trial_complete("base", ended(searcher, config, metrics=metrics))
    assert "the untouched model was not measured: perplexity" in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.RUNNING]
    again = WorkSearcher(plan(tmp_path))
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

    searcher = WorkSearcher(plan(tmp_path, on_facts=on_facts))
    after_baseline(searcher)
    assert isinstance(searcher.plan.error, UserError)
    assert str(error) in str(searcher.plan.error)
    assert searcher.suggest("one") == searcher.FINISHED
    assert states(searcher) == [TrialState.COMPLETE]


@pytest.mark.parametrize("call", ["ask", "tell"])
def test_a_journal_that_raises_ends_the_study_with_one_message(
    searcher: WorkSearcher, call: str, monkeypatch: pytest.MonkeyPatch
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
    searcher: WorkSearcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_baseline(searcher)
    monkeypatch.setattr(Facts, "read", lambda data: pytest.fail("read again"))
    monkeypatch.setattr(searcher.plan.journal, "noted", lambda key: pytest.fail("read again"))
    assert handed(searcher, "one")["facts"] is handed(searcher, "two")["facts"]


def test_a_stop_by_the_scheduler_is_pruned_with_its_progress(searcher: WorkSearcher) -> None:
    after_baseline(searcher)
    handed(searcher, "one")
    searcher.on_trial_complete("one", {"accuracy": 0.5, "done": True})
    row = searcher.plan.journal.trials()[1]
    assert row.state == TrialState.PRUNED
    assert row.user_attrs["record"]["progress"] == {"accuracy": 0.5}


def test_a_stopped_driver_leaves_its_trials_owed(searcher: WorkSearcher) -> None:
    after_baseline(searcher)
    handed(searcher, "one")
    handed(searcher, "two")
    searcher.on_trial_complete("one", None)
    searcher.on_trial_complete("two", {"accuracy": 0.5, "done": False})
    assert states(searcher)[1:] == [TrialState.RUNNING] * 2


def test_when_workers_keep_dying_it_is_not_the_trials(searcher: WorkSearcher) -> None:
    searcher.plan.budget = Budget(trials=20)
    after_baseline(searcher)
    for number in range(DEATHS):
        for _ in range(TRIES):
            assert handed(searcher, "tried")["given"].number == number + 1
            searcher.started("tried")
            dies(searcher, "tried")
    assert "Killed by somebody" in str(searcher.plan.error)
    assert searcher.suggest("next") == searcher.FINISHED
    assert states(searcher)[1:] == [TrialState.FAIL] * DEATHS


# -- what a space and a sampler can do -------------------------------------------------------------


def with_space(folder: Path, space: Any, sampler: BaseSampler, **changes: Any) -> WorkSearcher:
    """A searcher whose baseline is measured."""
    made = plan(folder, **changes)

    def on_facts(facts: Facts) -> Any:
        made.journal.begin(sampler, [])
        return space

    made.on_facts = on_facts
    searcher = WorkSearcher(made)
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


# -- one mistake, met by every trial ---------------------------------------------------------------


def fails(searcher: WorkSearcher, where: str, blame: str = "code") -> None:
    config = handed(searcher, "one")
    said = {"state": "fail", "metrics": {}, "blame": blame, "where": where}
    reason = f"TypeError: no {config['given'].number} ({where})"
    searcher.on_trial_complete("one", ended(searcher, config, reason=reason, **said))


def hours(folder: Path) -> WorkSearcher:
    searcher = WorkSearcher(plan(folder, budget=Budget(hours=8)))
    after_baseline(searcher)
    return searcher


def test_one_mistake_in_code_does_not_write_failed_trials_until_the_time_is_up(
    tmp_path: Path,
) -> None:
    searcher = hours(tmp_path)
    for _ in range(AT_ONE_LINE):
        assert searcher.plan.error is None
        fails(searcher, "TypeError mine.py:3")
    assert searcher.suggest("next") == searcher.FINISHED
    said = str(searcher.plan.error)
    assert f"the last {AT_ONE_LINE} trials failed of one thing: TypeError: no" in said
    assert "rayduce resume depth --retry-failed" in said
    assert states(searcher)[1:] == [TrialState.FAIL] * AT_ONE_LINE
    again = WorkSearcher(plan(tmp_path, budget=Budget(hours=8)))
    again.plan.ready(FACTS)  # a launch after the mistake was mended
    fails(again, "TypeError mine.py:3")
    assert again.plan.error is None


@pytest.mark.parametrize(
    ("measured", "blame", "lines", "allowed"),
    [
        (False, "code", ("TypeError a.py:1", "TypeError a.py:2"), None),
        (True, "code", ("TypeError a.py:1",), AT_ONE_LINE_LATER),
        (False, "candidate", ("PlanError a.py:1",), AT_ONE_LINE_LATER),
        (True, "candidate", ("PlanError a.py:1",), None),
        (False, "code", ("",), None),
    ],
)
def test_trials_that_fail_do_not_end_a_study_that_works(
    tmp_path: Path, measured: bool, blame: str, lines: tuple[str, ...], allowed: int | None
) -> None:
    searcher = hours(tmp_path)
    if measured:
        searcher.on_trial_complete("one", ended(searcher, handed(searcher, "one")))
    for number in range(AT_ONE_LINE_LATER):
        assert searcher.plan.error is None, f"after {number} failures"
        fails(searcher, lines[number % len(lines)], blame)
    assert (searcher.plan.error is None) == (allowed is None)


# -- what is no trial's fault ----------------------------------------------------------------------


def test_a_node_without_the_model_costs_no_trial_a_try(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    after_baseline(searcher)
    for _ in range(TRIES + 1):
        config = handed(searcher, "one")
        gives_back(searcher, "one", config, "candidate", reason="no such model", node="a")
        assert searcher.suggest("at once") is None  # a pause first
        clock.seconds += 60.0
    assert searcher.plan.places.struck == ["a"] * (TRIES + 1)  # type: ignore[attr-defined]
    config = handed(searcher, "one")
    searcher.on_trial_complete("one", ended(searcher, config, node="b"))
    assert states(searcher)[1:] == [TrialState.COMPLETE]
    said = [text for text in searcher.plan.watcher.said if "no such model" in text]  # type: ignore[attr-defined]
    assert said == ["warning: tried again, as it was no trial's fault: no such model [host pid 7]"]


def test_where_no_node_is_left_the_study_ends_with_the_true_reason(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    for node in "ab":
        clock.seconds += 60.0
        config = handed(searcher, "base")
        gives_back(searcher, "base", config, "place", reason="OSError: no such model", node=node)
    assert "no trial can run: OSError: no such model" in str(searcher.plan.error)
    assert states(searcher) == [TrialState.RUNNING]


def test_troubles_in_a_row_are_bounded_over_all_workers(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    after_baseline(searcher)
    for number in range(TROUBLES):
        assert searcher.plan.error is None
        config = handed(searcher, f"{number}")
        gives_back(searcher, f"{number}", config, "place", reason="disk full", node="a")
        clock.seconds += 60.0
    assert "disk full" in str(searcher.plan.error)
    assert states(searcher)[1:] == [TrialState.RUNNING]


def test_what_all_workers_meet_at_once_counts_once(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    searcher.plan.places.room = 2 * TROUBLES  # type: ignore[attr-defined]
    searcher.plan.budget = Budget(trials=100)
    after_baseline(searcher)
    for _ in range(2):
        configs = {f"{one}": handed(searcher, f"{one}") for one in range(2 * TROUBLES)}
        for trial_id, config in configs.items():
            gives_back(searcher, trial_id, config, "place", reason="disk full", node="a")
        clock.seconds += 60.0
    assert searcher.plan.error is None


@pytest.mark.parametrize("began", [True, False])
def test_a_lost_node_costs_no_trial_a_try(
    searcher: WorkSearcher, clock: SimpleNamespace, began: bool
) -> None:
    lost = ActorUnavailableError("The actor is temporarily unavailable", actor_id=None)
    after_baseline(searcher)
    for _ in range(TRIES + 1):
        config = handed(searcher, "one")
        if began:
            searcher.started("one")
        dies(searcher, "one", lost if began else DIED)
        clock.seconds += 60.0
    assert handed(searcher, "one") == config
    assert states(searcher)[1:] == [TrialState.RUNNING]


def test_memory_that_ran_out_is_the_candidates(searcher: WorkSearcher) -> None:
    after_baseline(searcher)
    for _ in range(TRIES):
        handed(searcher, "one")
        searcher.started("one")
        dies(searcher, "one", OutOfMemoryError("the node is running low on memory"))
    found = searcher.plan.journal.trials()[1].user_attrs["record"]
    assert found["reason"].startswith("out of memory")
    assert found["blame"] == "candidate"


def test_a_second_process_decides_where_the_first_may_be_at_fault(
    searcher: WorkSearcher,
) -> None:
    after_baseline(searcher)
    config = handed(searcher, "one")
    assert config["doubt"]
    gives_back(searcher, "one", config, "code", reason="RuntimeError: odd", node="a")
    again = handed(searcher, "again")
    assert again["given"] == config["given"] and not again["doubt"]
    searcher.on_trial_complete("again", ended(searcher, again))
    assert states(searcher)[1:] == [TrialState.COMPLETE]
    assert searcher.plan.places.struck == []  # type: ignore[attr-defined]


def test_second_opinions_that_agree_are_no_longer_asked_for(searcher: WorkSearcher) -> None:
    searcher.plan.budget = Budget(trials=20)
    after_baseline(searcher)
    for _ in range(AGREED):
        config = handed(searcher, "one")
        gives_back(searcher, "one", config, "code", reason="TypeError", node="a")
        config = handed(searcher, "one")
        failed = ended(searcher, config, state="fail", reason="TypeError", blame="code")
        searcher.on_trial_complete("one", failed)
    assert not handed(searcher, "next")["doubt"]
    assert states(searcher)[1:] == [TrialState.FAIL] * AGREED + [TrialState.RUNNING]


def test_the_baseline_needs_no_second_opinion(searcher: WorkSearcher) -> None:
    assert not handed(searcher, "base")["doubt"]


def test_a_trial_that_takes_too_long_has_failed_with_that_reason(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    searcher.plan.budget = Budget(trials=3, minutes_per_trial=2.0)
    after_baseline(searcher)
    handed(searcher, "one")
    clock.seconds += 500.0  # its worker was slow to start
    searcher.started("one")
    clock.seconds += 119.0
    dies(searcher, "one")  # not that late
    assert states(searcher)[1:] == [TrialState.RUNNING]
    handed(searcher, "one")
    searcher.started("one")
    clock.seconds += 121.0
    dies(searcher, "one")
    found = searcher.plan.journal.trials()[1].user_attrs["record"]
    assert found["reason"] == "took longer than 2 minutes (budget.minutes_per_trial)"
    assert states(searcher)[1:] == [TrialState.FAIL]


def test_a_baseline_that_takes_too_long_ends_the_study(
    searcher: WorkSearcher, clock: SimpleNamespace
) -> None:
    searcher.plan.budget = Budget(trials=3, minutes_per_trial=1.0)
    handed(searcher, "base")
    searcher.started("base")
    clock.seconds += 61.0
    dies(searcher, "base")
    assert "the baseline took longer than 1 minutes" in str(searcher.plan.error)
    assert states(searcher) == [TrialState.RUNNING]


def test_a_folder_that_a_node_does_not_see_is_said_once(searcher: WorkSearcher) -> None:
    after_baseline(searcher)
    for trial_id in ("one", "two"):
        config = handed(searcher, trial_id)
        searcher.on_trial_complete(trial_id, ended(searcher, config, unshared="box7"))
    said = [text for text in searcher.plan.watcher.said if "box7" in text]  # type: ignore[attr-defined]
    assert len(said) == 1 and "its cache is its own" in said[0]
    assert states(searcher) == [TrialState.COMPLETE] * 3


def test_what_items_scored_comes_through_ray_where_the_folder_is_not_shared(
    searcher: WorkSearcher,
) -> None:
    kept: dict[str, str] = {}
    searcher.plan.on_scores = kept.__setitem__
    after_baseline(searcher)
    config = handed(searcher, "one")
    searcher.on_trial_complete("one", ended(searcher, config, scores="packed", unshared="box7"))
    assert kept == {config["given"].uid: "packed"}
    assert "scores" not in searcher.plan.journal.trials()[1].user_attrs["record"]
