"""What a launch says: a line per event in logs, a table on a terminal."""

import io
import math

import pytest
from rich.console import Console

from search.journal.journal import Handout
from search.journal.results import Result
from search.progress import Progress, Screen, clock, event, pace
from tests.support.journals import record, sample_study


def result(number: int, perplexity: float, **changes: object) -> Result:
    metrics = {"perplexity": perplexity, "parameters": 134e6 - number * 1e6}
    given = {
        "number": number,
        "state": "complete",
        "params": {"omission.skip.01": 1},
        "metrics": metrics,
        "violations": {},
        "record": record("uid", number, metrics),
    }
    return Result(**given | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(7, "0:07"), (125, "2:05"), (7507, "2:05:07"), (86400, "24:00:00")]
)
def test_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_pace_counts_this_launch_only() -> None:
    now = Progress(done_before=2, results=[result(n, 20.0) for n in range(6)])
    now.began -= 360  # four trials in six minutes
    assert pace(now, planned=10) == "40 trials/h  7:30 left"
    assert pace(Progress(), planned=10) == ""


def test_an_event_in_a_line() -> None:
    study = sample_study()
    assert event(result(0, 20.0), study).startswith("baseline  perplexity 20")
    missed = result(3, 90.0, violations={"perplexity": 1.5})
    assert "misses a constraint" in event(missed, study)
    reason = {"state": "fail", "record": {"reason": "out of memory"}}
    assert event(result(4, math.nan, **reason), study) == "trial 4  fail  out of memory"


def test_the_screen_has_the_front_and_what_runs() -> None:
    study = sample_study()
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    screen = Screen(study, console)
    screen.take([result(0, 20.0), result(1, 21.0), result(2, 20.5)])
    running = Handout(3, "uid", {"omission.skip.04": 1, "omission.skip.05": 0})
    screen.now.running = {running.number: running.params}
    console.print(screen.render())
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2/6 trials" in said
    assert "front: 1 of 2" in said
    assert "running  trial 3  omission.skip=4" in said
