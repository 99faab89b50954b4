"""The stage-4 table on numbers made by hand."""

import numpy as np
import pytest

from search.routing import evaluation as judging
from tests.support.routing import answers
from trainables.routing.answers import NEVER, choose

# Two tasks; set 0 is best for `a`, set 1 for `b`, and of the training items set 0 has one more.
TAUGHT = answers("aaabb", [(1, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
HELD = answers("aabb", [(1, 0), (0, 1), (0, 1), (0, 1)])
PROMISED = np.array([[1.0, 0.0], [1.0, 0.9], [0.0, 1.0], [0.0, 0.1]])
DENSE = np.array([1.0, 1.0, 1.0, 0.0])


def found(margin: float = 0.5) -> list[judging.Way]:
    kept = choose(PROMISED, static=0, margin=margin)
    return judging.ways(TAUGHT, HELD, PROMISED, kept, DENSE)


def test_ways_are_what_they_say() -> None:
    rows = judging.judge(found(), HELD, lambda way: 10.0)
    assert {name: row["accuracy"] for name, row in rows.items()} == {
        judging.DENSE: 0.75,
        judging.ROUTER: 0.75,  # a: 1 of 2, b: both
        judging.KEPT: 0.5,  # the last prompt's promise is too little
        judging.STATIC: 0.25,
        judging.LIKELY: 0.25,
        judging.CHANCE: 0.25,
        judging.MAJORITY: 0.25,
        judging.TAUGHT: 0.75,
        judging.CEILING: 0.75,
        judging.HINDSIGHT: 0.75,
        judging.RANDOM: 0.5,
        judging.ORACLE: 1.0,
    }
    assert rows[judging.ROUTER]["accuracy/a"] == 0.5
    assert rows[judging.ROUTER]["against/static"] == 0.5
    assert rows[judging.ROUTER]["against/hindsight"] == 0.0
    assert rows[judging.STATIC]["against/static/low"] == rows[judging.STATIC]["against/static"] == 0
    assert "against/static" not in rows[judging.CEILING]
    assert rows[judging.ROUTER]["low"] <= 0.75 <= rows[judging.ROUTER]["high"]
    assert rows[judging.KEPT]["regret"] > rows[judging.ROUTER]["regret"]


def test_with_a_margin_that_no_promise_exceeds_it_is_the_static_set() -> None:
    rows = judging.judge(found(NEVER), HELD, lambda way: 10.0)
    assert rows[judging.KEPT] == rows[judging.STATIC]


def test_intervals_are_paired_and_drawn_within_tasks() -> None:
    """Where one way is right exactly where the other is, and once more, no draw says otherwise."""
    rows = judging.judge(found(), HELD, lambda way: 10.0)
    router = rows[judging.ROUTER]
    assert router["against/static/low"] >= 0
    alone = [way for way in found() if way.name == judging.ORACLE]
    assert judging.judge(alone, HELD, lambda way: 1.0)[judging.ORACLE]["low"] == 1


def test_where_prompts_go_is_told_by_task() -> None:
    ways = {way.name: way for way in found()}
    shares = judging.shares(ways[judging.KEPT], HELD)
    assert shares == {"a": {"0": 1.0}, "b": {"0": 0.5, "1": 0.5}}
    table = judging.shares_table(shares, ["one", "two"], "t")
    assert table["rows"] == [["a", "100%", "0%"], ["b", "50%", "50%"]]
    assert table["heads"] == ["task", "one", "two"]


def test_the_table_has_a_row_for_each_way_and_the_words_say_by_how_much() -> None:
    rows = judging.judge(found(), HELD, lambda way: 2.5e6)
    table = judging.table(rows, "title")
    assert len(table["rows"]) == 12 and table["heads"][1:4] == ["a", "b", "mean"]
    assert all(len(words) == len(table["heads"]) for words in table["rows"])
    assert "router with fallback 50.00%, best static set by training 25.00%: +25.00%" in (
        judging.verdict(rows, 3)
    )


def test_a_harness_task_is_a_task_for_each_of_its_scores() -> None:
    under = [[{"prompt": "p", "acc": 1.0, "acc_norm": 0.0}], [{"prompt": "p", "acc": 0.0}]]
    with pytest.raises(KeyError):
        judging.harness_records("t", under)
    under[1][0]["acc_norm"] = 1.0
    records = judging.harness_records("t", under)
    assert [one["task"] for one in records] == ["t/acc", "t/acc_norm"]
    assert judging.Answers.of(records).right.tolist() == [[1, 0], [0, 1]]


def test_speed_counts_the_routers_time() -> None:
    times = {"dense_prefill": 4.0, "pruned_prefill": 1.5, "router": 0.5}
    times |= {"dense_generation": 9.0, "pruned_generation": 5.5}
    sizes = {"dense_bytes": 100.0, "pruned_bytes": 70.0, "router_bytes": 10.0}
    told = judging.speed(times | sizes)
    assert (told["speed/prefill"], told["speed/generation"]) == (2, 1.5)
    assert (told["bytes/resident"], told["bytes/active"]) == (110, 80)
