"""The stage-4 table on numbers made by hand."""

import math

import pytest

from search.routing.commands import table
from search.routing.evaluation import (
    DENSE,
    HINDSIGHT,
    MAJORITY,
    ORACLE,
    RANDOM,
    ROUTER,
    STATIC,
    Judged,
    evaluate,
    judge,
    speed,
)

ITEMS = [
    Judged("a", "p", (True, False), (-1.0, -2.0), True),
    Judged("a", "q", (False, True), (-4.0, -1.0), True),
    Judged("b", "r", (True, False), (-1.0, -3.0), False),
]
TRAINING = [[-1.0, -9.0], [-3.0, -2.0], [-3.0, -2.0]]


def test_policies_are_what_they_say() -> None:
    found = evaluate(ITEMS, [0, 1, 1], TRAINING)
    accuracy = {name: row["mean"] for name, row in found.rows.items()}
    assert accuracy[DENSE] == 0.5
    assert accuracy[ROUTER] == 0.5  # a: both right, b: wrong
    assert accuracy[HINDSIGHT] == 0.75  # set 0: a one of two, b right
    assert accuracy[STATIC] == 0.75  # set 0 by mean likelihood
    assert accuracy[MAJORITY] == 0.25  # set 1 is best most often
    assert accuracy[RANDOM] == 0.5
    assert accuracy[ORACLE] == 1
    assert found.rows[ROUTER]["regret"] == pytest.approx(2 / 3)
    assert found.rows[ORACLE]["regret"] == 0
    assert found.router_share == {0: pytest.approx(1 / 3), 1: pytest.approx(2 / 3)}


def test_a_router_counts_only_if_it_beats_the_best_static_set() -> None:
    assert evaluate(ITEMS, [0, 1, 0], TRAINING).beats_static
    poor = evaluate(ITEMS, [0, 0, 0], TRAINING)
    assert not poor.beats_static
    assert "does not beat" in poor.verdict()


def test_answers_are_compared_whole_or_per_character() -> None:
    record = {
        "task": "a",
        "prompt": "p",
        "answer": 1,
        "scores": [[-1.0, -0.9], [-2.0, -0.1]],
        "likelihood": [-0.9, -0.1],
        "tokens": [1, 2],
        "characters": [4, 20],
    }
    whole, per_character = judge(record, normalised=False), judge(record, normalised=True)
    assert (whole.right, whole.dense) == ((False,), True)
    assert per_character.right == (True,)
    assert whole.likelihood == (-0.9,)


def test_what_is_no_number_is_never_right() -> None:
    """An answer with a number wins over one without, and none at all is wrong."""
    nan, none = float("nan"), float("-inf")
    record = {"task": "a", "prompt": "p", "answer": 0, "tokens": [1, 1], "characters": [1, 1]}
    record |= {"scores": [[nan, nan], [nan, -5.0], [none, none], [-1.0, nan]]}
    record |= {"likelihood": [nan, nan, none, -1.0]}
    found = judge(record, normalised=False)
    assert (found.right, found.dense) == ((False, False, False), True)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_broken_set_counts_as_the_worst_and_is_said(bad: float) -> None:
    broken = [
        Judged("a", "p", (False, False), (bad, -2.0), True),
        Judged("a", "q", (False, True), (bad, -1.0), True),
        Judged("b", "r", (False, False), (bad, bad), False),
    ]
    found = evaluate(broken, [0, 1, 1], [[bad, -9.0], [bad, -2.0], [bad, bad]])
    assert found.rows[ROUTER]["regret"] == pytest.approx(0.0)  # the first lost nothing: both -2
    assert found.rows[HINDSIGHT]["mean"] == 0.25
    assert (found.replaced, found.dropped) == (2, 1)
    assert "2 likelihoods are no finite numbers" in found.told() and "1 items" in found.told()
    numbers = [value for row in found.rows.values() for value in row.values()]
    assert all(map(math.isfinite, numbers))
    assert evaluate(ITEMS, [0, 1, 1], TRAINING).told() == ""


def test_speed_counts_the_routers_time() -> None:
    times = {"dense_prefill": 4.0, "pruned_prefill": 1.5, "router": 0.5}
    times |= {"dense_generation": 9.0, "pruned_generation": 5.5}
    sizes = {"dense_bytes": 100.0, "pruned_bytes": 70.0, "router_bytes": 10.0}
    found = speed(times | sizes)
    assert found["prefill_speedup"] == 2
    assert found["generation_speedup"] == 1.5
    assert (found["resident_bytes"], found["active_bytes"]) == (110, 80)


def test_the_table_has_a_row_for_each_policy() -> None:
    shown = table(evaluate(ITEMS, [0, 1, 1], TRAINING))
    assert shown.row_count == 7
    assert [column.header for column in shown.columns][1:4] == ["a", "b", "mean"]
