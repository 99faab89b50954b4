"""What follows from items under sets, on numbers made by hand."""

import math

import numpy as np
import pytest

from tests.support.routing import answers
from trainables.core.errors import PlanError
from trainables.routing.answers import (
    NEVER,
    Answers,
    best_set,
    by_task,
    choose,
    covering,
    fallback,
    finite,
    taken,
)

NOTHING, NONE = float("nan"), float("-inf")


def record(
    judged: list[list[float]], likelihood: list[float], answer: int = 0
) -> dict[str, object]:
    name = {"item": "a/0", "task": "a", "prompt": "p", "answer": answer}
    return {**name, "likelihood": likelihood, "judged": judged}


def test_right_probability_and_margin_are_those_of_what_is_judged() -> None:
    found = Answers.of([record([[-1.0, -1.0 + math.log(3)], [0.0, -math.log(4)]], [-1.0, -2.0])])
    assert found.right.tolist() == [[0, 1]]
    assert found.probability[0].tolist() == pytest.approx([0.25, 0.8])
    assert found.margin[0].tolist() == pytest.approx([-math.log(3), math.log(4)])
    assert found.targets("likelihood", centre=True).tolist() == [[0.5, -0.5]]
    assert found.targets("likelihood", centre=False).tolist() == [[-1, -2]]


def test_what_is_no_number_is_never_right_and_counts_as_the_worst() -> None:
    """An answer with a number wins over one without, and none at all is wrong."""
    judged = [[NOTHING, NOTHING], [NOTHING, -5.0], [NONE, NONE], [-1.0, NOTHING]]
    found = Answers.of([record(judged, [NOTHING, NOTHING, NONE, -1.0])])
    assert found.right.tolist() == [[0, 0, 0, 1]]
    assert found.probability.tolist() == [[0, 0, 0, 1]]
    assert found.likelihood.tolist() == [[-1, -1, -1, -1]]
    assert np.isfinite(found.targets("margin", centre=True)).all()
    assert finite(np.array([[1.0, NONE], [-7.0, NOTHING]])).tolist() == [[1, -7], [-7, -7]]
    with pytest.raises(PlanError, match="no likelihood of 1 items is a finite number"):
        Answers.of([record([[NONE, NONE]], [NONE])])


def test_no_item_is_on_both_sides_of_the_split_and_every_task_is_on_each() -> None:
    once = answers("a" * 30 + "b" * 10, [(1, 0)] * 40)
    twice = once.take(list(range(40)) * 2)
    taught, held = twice.split(0.25, seed=1)
    assert not set(taught.items) & set(held.items)
    assert len(taught) + len(held) == 80
    assert [int((held.tasks == task).sum()) for task in "ab"] == [16, 4]
    assert held.items.tolist() == twice.split(0.25, seed=1)[1].items.tolist()
    with pytest.raises(PlanError, match="1 items are too few"):
        answers("a", [(1, 0)]).split(0.5, seed=1)


def test_tasks_weigh_the_same_whatever_their_size() -> None:
    found = answers("aaab", [(1, 0), (1, 0), (1, 0), (0, 1)])
    assert by_task(found.right, found.tasks).tolist() == [0.5, 0.5]
    assert best_set(answers("aab", [(1, 0), (0, 0), (0, 1)])) == 1
    assert best_set(answers("aab", [(1, 0), (1, 1), (0, 0)]), "probability") == 0


def test_a_set_is_taken_where_it_promises_more_by_the_margin() -> None:
    promised = np.array([[0.5, 0.6, 0.0], [0.5, 0.9, 1.0], [0.5, 0.1, 0.2]])
    assert choose(promised).tolist() == [1, 2, 0]
    assert choose(promised, static=0, margin=0.2).tolist() == [0, 2, 0]
    assert choose(promised, static=2, margin=NEVER).tolist() == [2, 2, 2]
    assert taken(promised, np.array([1, 2, 0])).tolist() == [0.6, 1.0, 0.5]


def test_the_margin_is_where_validation_items_gain_most() -> None:
    """Promises of up to .3 are wrong, those above are right: the margin lies between."""
    right = [(1, 0)] * 10 + [(0, 1)] * 10
    held, gain = answers("a" * 20, right), np.r_[np.full(10, 0.3), np.full(10, 0.8)]
    promised = np.c_[np.zeros(20), gain]
    margin = fallback(promised, held, static=0)
    assert 0.3 <= margin < 0.8
    assert choose(promised, 0, margin).tolist() == [0] * 10 + [1] * 10


def test_a_router_that_gains_nothing_beyond_doubt_is_never_followed() -> None:
    held = answers("a" * 6, [(1, 0), (0, 1)] * 3)
    promised = np.c_[np.zeros(6), np.full(6, 0.5)]
    assert fallback(promised, held, static=0) == NEVER
    assert fallback(-promised, held, static=0) == NEVER, "it never leaves the static set"


def test_a_gain_must_be_two_standard_errors() -> None:
    """Of 16 items that change as much, four more won than lost are one, and eight are two."""
    for wins, followed in ((11, False), (12, False), (13, True)):
        right = [(0, 1)] * wins + [(1, 0)] * (16 - wins)
        held, promised = answers("a" * 16, right), np.c_[np.zeros(16), np.full(16, 0.5)]
        assert (fallback(promised, held, static=0) < NEVER) is followed


def test_covering_takes_what_adds_most_to_what_is_there() -> None:
    """Alone sets 0 and 1 are the best two, but they answer the same items."""
    right = [(1, 1, 0), (1, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1)]
    found = answers("a" * 6, right)
    assert covering(found, 2) == [0, 2]
    assert sorted(covering(found, 9)) == [0, 1, 2]
    reached = [found.probability[:, covering(found, n)].max(1).mean() for n in (1, 2, 3)]
    assert reached == sorted(reached)
