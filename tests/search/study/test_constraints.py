"""Limits: what they read as, when they hold, and what is refused."""

import math

import numpy as np
import pytest

from search.study.constraints import doubts, parse_constraint, parse_where
from trainables.core.errors import UserError
from trainables.core.scores import Scores, mean_of


@pytest.mark.parametrize(
    ("text", "baseline", "limit", "at_most"),
    [
        ("<= 130% of baseline", 20.0, 26.0, True),
        (">= 98 % of baseline", 0.5, 0.49, False),
        (">= 98% of the baseline", 0.5, 0.49, False),
        ("<= 5", None, 5.0, True),
        (">= 0.9", None, 0.9, False),
        ("<=1e8", None, 1e8, True),
        ("<= 100_000_000", None, 1e8, True),
        (">= -.5", None, -0.5, False),
        ("<= baseline + 4", 20.0, 24.0, True),
        (">= baseline - 0.04", 0.9, 0.86, False),
        ("<= baseline", 20.0, 20.0, True),
        ("≤ 5", None, 5.0, True),
    ],
)
def test_reads(text: str, baseline: float | None, limit: float, at_most: bool) -> None:
    constraint = parse_constraint("m", text)
    assert constraint.limit(baseline) == pytest.approx(limit)
    assert constraint.at_most is at_most


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "< 5", "> 5", "== 5", "=< 5", "<= ", "<= five", "<= nan", "<= 1__0e"),
        *("<= 130%", "<= 5 of baseline", "<= -5% of baseline", "<= 5 or 6"),
        *("<= baseline * 2", "<= baseline +"),
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_constraint("perplexity", text)
    assert "perplexity" in str(caught.value)
    assert '"<= 130% of baseline"' in caught.value.allowed


def test_says_which_operator_to_use() -> None:
    with pytest.raises(UserError, match='write "<=" instead of "<"'):
        parse_constraint("m", "< 5")
    with pytest.raises(UserError, match='write ">=" instead of ">"'):
        parse_constraint("m", "> 5")


def test_violation_is_a_share_of_the_limit() -> None:
    assert parse_constraint("m", "<= 20").violation(25.0) == pytest.approx(0.25)
    assert parse_constraint("m", "<= 20").violation(15.0) == pytest.approx(-0.25)
    assert parse_constraint("m", ">= 0.8").violation(0.6) == pytest.approx(0.25)
    assert parse_constraint("m", ">= 90% of baseline").violation(0.9, 1.0) == 0.0
    assert parse_constraint("m", "<= 0").violation(3.0) == 3.0
    assert parse_constraint("m", "<= 5").violation(math.nan) == math.inf


def test_rounding_does_not_decide() -> None:
    for baseline in (0.07, 0.29, 0.58, 0.92):
        limit = parse_constraint("m", ">= baseline - 0.04")
        assert limit.violation(round(baseline - 0.04, 2), baseline) <= 0
        above = parse_constraint("m", "<= 110% of baseline")
        assert above.violation(baseline * 11 / 10, baseline) <= 0
        assert limit.violation(baseline - 0.0401, baseline) > 0


def test_a_baseline_that_is_needed_is_asked_for() -> None:
    with pytest.raises(UserError, match="the baseline has no perplexity"):
        parse_constraint("perplexity", "<= 130% of baseline").violation(3.0)


def test_describes_with_the_number() -> None:
    limit = parse_constraint("perplexity", "<=  130% of baseline")
    assert limit.describe(19.0) == "perplexity <= 130% of baseline (<= 24.7)"
    assert limit.describe() == "perplexity <= 130% of baseline"
    assert parse_constraint("accuracy", ">= 0.9").describe(0.95) == "accuracy >= 0.9"


def test_where_joins_limits() -> None:
    one, two = parse_where("accuracy >= 98% of baseline and parameters<=1e8")
    assert (one.metric, one.factor, one.at_most) == ("accuracy", 0.98, False)
    assert (two.metric, two.offset, two.at_most) == ("parameters", 1e8, True)


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy >= 1 or size <= 2", "and", "5 >= x"])
def test_where_refuses(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_where(text)
    assert "allowed: " in str(caught.value)


def test_where_knows_the_metrics() -> None:
    with pytest.raises(UserError) as caught:
        parse_where("acuracy >= 0.9", known=["accuracy", "parameters"])
    assert str(caught.value) == (
        'where: unknown metric: got "acuracy"; allowed: accuracy, parameters; '
        'did you mean "accuracy"?'
    )


def test_a_share_of_a_baseline_near_zero_is_doubted() -> None:
    """As a published ROUGE-L of 0.049, of which 95 % was to be kept."""
    values = np.random.default_rng(0).normal(0.049, 0.04, 100).clip(0)
    found = Scores("rows", {"rouge_l": mean_of(values), "bleu": mean_of([30.0, 42.0, 36.0] * 9)})
    limits = [parse_constraint("rouge_l", ">= 95% of baseline")]
    (told,) = doubts(limits, found)
    assert told.startswith("rouge_l >= 95% of baseline means little: the untouched model has 0.0")
    for limit in (
        parse_constraint("rouge_l", ">= 0.04"),
        parse_constraint("rouge_l", ">= baseline - 0.01"),
        parse_constraint("bleu", ">= 90% of baseline"),
        parse_constraint("parameters", "<= 85% of baseline"),
    ):
        assert not doubts([limit], found)
    wide = Scores("rows", {"bleu": mean_of([0.0] * 9 + [100.0])})  # all of one item
    assert doubts([parse_constraint("bleu", ">= 90% of baseline")], wide)
