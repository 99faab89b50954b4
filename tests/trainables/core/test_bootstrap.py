"""Intervals: what theory says, pairs, and the same on every call."""

import numpy as np
import pytest

from trainables.core.bootstrap import drawn, interval, paired
from trainables.core.errors import MetricError
from trainables.core.scores import ItemScores, Scores, mean_of


def scores(**of: ItemScores) -> Scores:
    return Scores("here", of)


def test_a_means_interval_is_its_standard_errors() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = interval("x", scores(x=mean_of(values)))
    error = values.std() / 20
    assert found.value == mean_of(values).total()
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)
    assert found == interval("x", scores(x=mean_of(values)))
    narrow = interval("x", scores(x=mean_of(values)), level=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_a_ratio_is_drawn_by_its_sums() -> None:
    draw = np.random.default_rng(0)
    weight = draw.integers(1, 50, 80)
    columns = {"value": weight * draw.uniform(2, 3, 80), "weight": weight}
    given = ItemScores("exp-ratio", columns)
    picked = np.random.Generator(np.random.PCG64([0, 80, 0])).integers(80, size=(7, 80))
    by_hand = [given.take(row).total() for row in picked]
    assert drawn(given, draws=7) == pytest.approx(by_hand, rel=1e-12)


def test_many_items_are_drawn_in_pieces() -> None:
    values = np.random.default_rng(0).normal(size=3000)
    found = drawn(mean_of(values), draws=700)
    assert len(set(found)) == 700 and found.std() == pytest.approx(1 / 3000**0.5, rel=0.1)


def test_pairs_see_what_both_find_hard() -> None:
    hard = np.random.default_rng(0).normal(10, 5, 200)
    noise = np.random.default_rng(1).normal(0, 0.1, 200)
    one, other = scores(x=mean_of(hard + 0.1 + noise)), scores(x=mean_of(hard))
    found = paired("x", one, other)
    assert 0 < found.difference.low < found.difference.value < found.difference.high < 0.2
    assert found.ratio.low > 1 and found.below == 0
    assert paired("x", other, one).below == 1
    same = paired("x", one, one)
    assert same.difference == (0, 0, 0) and same.below == 0.5
    apart = interval("x", one)
    assert apart.high - apart.low > 10 * (found.difference.high - found.difference.low)


def test_every_rule_has_its_interval() -> None:
    draw = np.random.default_rng(0)
    names = (
        "length",
        "wanted_length",
        *(f"{kind}{n}" for kind in ("right", "written") for n in (1, 2, 3, 4)),
    )
    counts = {name: draw.integers(1 + 3 * ("right" not in name), 9, 40) for name in names}
    classes = {"predicted": draw.integers(0, 3, 40), "wanted": draw.integers(0, 3, 40)}
    for one in (ItemScores("bleu", counts), ItemScores("macro-f1", classes)):
        found = interval("x", scores(x=one))
        assert found.low < found.value < found.high


@pytest.mark.parametrize(
    "other", [Scores("there", {"x": mean_of([1, 2])}), Scores("here", {"x": mean_of([1, 2, 3])})]
)
def test_other_items_are_no_pair(other: Scores) -> None:
    with pytest.raises(MetricError, match="not measured on the same items"):
        paired("x", scores(x=mean_of([1, 2])), other)


def test_nothing_to_divide_by_is_no_error() -> None:
    zero = scores(x=mean_of([0, 0]))
    assert np.isnan(paired("x", zero, zero).ratio.low)
