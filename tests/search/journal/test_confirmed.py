"""Held-out verdicts, worked out by hand: changes, limits, who holds, how the search flattered."""

import numpy as np
import pytest

from search.journal.confirmed import NOTE, Confirmed, confirmed, flattered, holding, note_of
from search.journal.results import Result
from search.study.constraints import parse_constraint
from trainables.core.scores import Scores, mean_of

BASE = np.random.default_rng(0).normal(2.0, 0.5, 200)


def scores(shift: float, noise: float = 0.1) -> Scores:
    drift = np.random.default_rng(1).normal(0, noise, 200)
    return Scores("rows", {"loss": mean_of(BASE + shift + drift - drift.mean())})


def note(shift: float, limit: str, noise: float = 0.1) -> Confirmed:
    base, found = scores(0, 0), scores(shift, noise)
    metrics, untouched = (
        {"loss": one["loss"].total(), "parameters": size}
        for one, size in ((found, 90), (base, 100))
    )
    limits = [parse_constraint("loss", limit), parse_constraint("parameters", "<= 95")]
    made = note_of(metrics, found, untouched, base, limits)
    return confirmed({"seed": 1, f"{NOTE}7": made})[7]


@pytest.mark.parametrize(
    ("shift", "limit", "verdict"),
    [
        (0.1, "<= baseline + 0.2", "certain"),
        (0.1, "<= baseline + 0.101", "likely"),
        (0.1, "<= baseline + 0.09", "missed"),
        (0.0, "<= 110% of baseline", "certain"),
        (0.1, "<= 2.11", "likely"),  # what all find hard puts a plain number in doubt
    ],
)
def test_limits_are_judged_with_the_interval(shift: float, limit: str, verdict: str) -> None:
    found = note(shift, limit)
    assert found.limits == {f"loss {limit}": verdict, "parameters <= 95": "certain"}
    assert found.verdict == verdict and found.feasible == (verdict != "missed")


def test_changes_are_told_with_their_interval() -> None:
    found = note(0.1, "<= 9")
    loss, size = found.changes["loss"], found.changes["parameters"]
    percent = 100 * 0.1 / BASE.mean()
    assert loss.value == pytest.approx(percent)
    assert loss.low is not None and loss.high is not None
    error = 1.96 * 100 * 0.1 / 200**0.5 / BASE.mean()
    assert loss.low == pytest.approx(percent - error, abs=0.3 * error)
    assert loss.high == pytest.approx(percent + error, abs=0.3 * error)
    assert (size.value, size.low, size.high) == (-10.0, None, None)


def one(number: int, loss: float, size: float, verdict: str = "certain") -> Confirmed:
    metrics = {"loss": loss, "parameters": size}
    return Confirmed(number, metrics, {}, {"loss <= 3": verdict})  # type: ignore[dict-item]


def test_who_holds() -> None:
    known = {
        0: one(0, 2.0, 100),
        1: one(1, 2.1, 90),
        2: one(2, 2.2, 95),  # beaten by the first
        3: one(3, 1.0, 10, "missed"),  # which beats nobody
        4: one(4, 2.1, 90),  # as good as the first
    }
    assert holding(known, {"loss": "min", "parameters": "min"}) == {0, 1, 4}
    assert holding(known, {"loss": "max"}) == {2}


def result(number: int, **metrics: float) -> Result:
    return Result(number, "complete", {}, metrics, {}, {})


def test_what_the_search_promised_and_did_not_keep() -> None:
    found = note(0.1, "<= 9")
    promised = result(7, loss=2.0, parameters=90), result(0, loss=2.0, parameters=100)
    assert flattered(*promised, found, "loss", "min") == pytest.approx(found.changes["loss"].value)
    assert flattered(*promised, found, "loss", "max") == -found.changes["loss"].value
    assert flattered(*promised, found, "parameters", "min") is None
    assert flattered(promised[1], promised[1], found, "loss", "min") is None


def test_a_study_that_was_not_confirmed() -> None:
    assert confirmed({"token": "a", "held_out/x": {}}) == {}
