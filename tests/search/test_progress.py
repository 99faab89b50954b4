"""What a launch says: a line per event in logs, a table on a terminal."""

import io
import math
import random

import pytest
from rich.console import Console

from search.journal.results import Result, front
from search.progress import Lines, Progress, Screen, clock, event, pace
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


def failed(number: int, reason: str) -> Result:
    return result(number, math.nan, state="fail", record={"reason": reason})


def console() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def told(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(7, "0:07"), (125, "2:05"), (7507, "2:05:07"), (86400, "24:00:00")]
)
def test_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_pace_counts_this_launch_only() -> None:
    now = Progress(sample_study().objectives)
    now.begin([result(n, 20.0) for n in range(2)])
    for number in range(2, 6):
        now.add(result(number, 20.0))
    now.began -= 360  # four trials in six minutes
    assert pace(now, planned=10) == "40 trials/h  7:30 left"
    assert pace(Progress({}), planned=10) == ""


def test_the_front_kept_up_to_date_is_the_front_of_all() -> None:
    draw, objectives = random.Random(0), sample_study().objectives
    every = []
    now = Progress(objectives)
    for number in range(200):
        metrics = {"perplexity": draw.randint(0, 30), "parameters": draw.randint(0, 30)}
        missed = {"perplexity": float(draw.randint(0, 1))}
        one = result(number, 0.0, metrics=metrics, violations=missed)
        every.append(one)
        on_front = now.add(one)
        assert [r.number for r in now.front] == [r.number for r in front(every, objectives)]
        assert on_front == (one in now.front)


def test_an_event_in_a_line() -> None:
    study = sample_study()
    assert event(result(0, 20.0), study).startswith("baseline  perplexity 20")
    missed = result(3, 90.0, violations={"perplexity": 1.5})
    assert "misses a constraint" in event(missed, study)
    assert event(failed(4, "out of memory"), study) == "trial 4  fail  out of memory"


def test_a_log_has_one_line_per_end_and_none_of_earlier_launches() -> None:
    out = console()
    lines = Lines(sample_study(), out)
    lines.begin([result(0, 20.0), result(1, 21.0)])
    lines.ended(result(2, 19.0))
    assert "1 trials ended before" in told(out).splitlines()[0]
    assert ["front" in line for line in told(out).splitlines()] == [False, True]
    assert len(told(out).splitlines()) == 2


@pytest.mark.parametrize("reason", ["prompt [/INST] is too long", "no kernel for [cuda]", "a [b"])
def test_brackets_in_a_reason_are_shown_as_they_are(reason: str) -> None:
    out = console()
    lines = Lines(sample_study(), out)
    lines.phase(f"warning: {reason}")
    lines.ended(failed(1, reason))
    assert [reason in line for line in told(out).splitlines()] == [True, True]
    screen = Screen(sample_study(), out)
    screen.phase(reason)
    screen.ended(failed(1, reason))
    screen.running({2: {"prompt": reason}})
    out.print(screen.render())
    assert told(out).count(reason) == 4


def test_the_screen_has_the_front_and_what_runs() -> None:
    out = console()
    screen = Screen(sample_study(), out)
    screen.begin([result(0, 20.0), result(1, 21.0)])
    screen.ended(result(2, 20.5))
    screen.running({3: {"omission.skip.04": 1, "omission.skip.05": 0}})
    out.print(screen.render())
    assert "2/6 trials" in told(out)
    assert "front: 1 of 2" in told(out)
    assert "running  trial 3  omission.skip=4" in told(out)
