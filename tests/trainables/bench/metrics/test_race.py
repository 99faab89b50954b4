"""Racing: who is out, and when, by numbers made up; what stays in is measured as without."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from trainables.bench.metrics.race import (
    LEAST,
    Limit,
    OutOfRace,
    Race,
    Rival,
    Runner,
    shares,
)
from trainables.core.scores import ItemScores, Scores, mean_of

ITEMS = 128
HARD = np.random.default_rng(0).normal(3.0, 1.0, ITEMS)
AT_MOST = Limit("loss", True, 1.1, 0.0, "loss <= 110% of baseline")


def scored(shift: float, noise: float = 0.1, seed: int = 1) -> ItemScores:
    return mean_of(HARD + shift + np.random.default_rng(seed).normal(0, noise, ITEMS))


def rival(number: int, shift: float, size: float) -> Rival:
    found = scored(shift, seed=number + 10)
    metrics = {"loss": found.total(), "parameters": size}
    return Rival(number, metrics, Scores("rows", {"loss": found}).text())


def race(*front: Rival, **changes: Any) -> Race:
    given = {"objectives": {"loss": "min", "parameters": "min"}, "limits": (AT_MOST,)}
    return Race(**given | {"baseline": rival(0, 0.0, 100), "front": front} | changes)


def out(given: Race, size: float, found: ItemScores | None, share: float) -> OutOfRace | None:
    items = list(range(int(share * ITEMS)))
    runner = Runner(given, {"parameters": size})
    try:
        runner.look(items, ITEMS, {} if found is None else {"loss": found.take(items)})
    except OutOfRace as error:
        return error
    return None


def test_a_missed_constraint_is_seen_early_and_a_close_one_is_not() -> None:
    lost = out(race(), 50, scored(2.0), 0.25)
    assert lost is not None and lost.share == 0.25
    assert str(lost) == "after 25% of the items: misses loss <= 110% of baseline"
    assert lost.seen["parameters"] == 50
    assert lost.seen["loss"] == pytest.approx(scored(2.0).total(), rel=0.1)
    assert out(race(), 50, scored(0.33), 0.25) is None, "that is near the limit"
    assert out(race(), 50, scored(-1.0), 0.25) is None


def test_who_is_worse_in_everything_is_out() -> None:
    best = rival(5, 0.1, 60)
    lost = out(race(best), 70, scored(0.25), 0.25)
    assert lost is not None and "worse than trial 5" in str(lost)
    assert lost.seen["loss"] > best.metrics["loss"], "nor does the sampler take it for better"
    assert out(race(best), 59, scored(0.25), 0.25) is None, "it is smaller"
    assert out(race(best), 60, scored(0.25), 0.25) is not None, "as small, and worse"
    assert out(race(best), 70, scored(0.11), 0.25) is None, "the items do not tell"


def test_nothing_is_beyond_doubt_by_a_few_items() -> None:
    few = (LEAST - 1) / ITEMS
    assert out(race(), 50, scored(9.0), few) is None
    assert out(race(), 50, scored(9.0), LEAST / ITEMS) is not None


def test_what_is_free_decides_before_any_item() -> None:
    small = Limit("parameters", True, 0.5, 0.0, "parameters <= 50% of baseline")
    lost = out(race(limits=(small,)), 51, None, 0)
    assert lost is not None and lost.share == 0
    assert str(lost) == "before any item: misses parameters <= 50% of baseline"
    assert lost.seen == {"parameters": 51, "loss": race().baseline.metrics["loss"]}
    assert out(race(limits=(small,)), 50, None, 0) is None
    sizes = race(rival(5, 0, 60), objectives={"parameters": "min"})
    assert out(sizes, 61, None, 0) is not None and out(sizes, 60, None, 0) is None


def test_the_untouched_model_beats_nobody_where_it_misses_a_constraint_itself() -> None:
    wanted = Limit("parameters", True, 0.5, 0.0, "parameters <= 50% of baseline")
    only = race(objectives={"loss": "min"}, limits=(wanted,))
    assert out(only, 40, scored(0.5), 0.5) is None


def test_what_is_not_known_of_both_decides_nothing() -> None:
    blind = Rival(5, rival(5, 0, 60).metrics, "")
    assert out(race(blind), 70, scored(0.3), 0.25) is None
    times = race(rival(5, 0, 60), objectives={"loss": "min", "latency_ms": "min"}, limits=())
    assert out(times, 70, scored(1.0), 0.25) is None
    assert out(race(), 50, mean_of(np.full(ITEMS, math.inf)), 0.25) is None


def test_shares_grow_in_one_order() -> None:
    found = list(shares(16, 0.125, 2.0))
    assert [len(one) for one in found] == [2, 4, 8]
    assert all(set(one) < set(more) for one, more in pairwise(found))
    assert found == list(shares(16, 0.125, 2.0)) and found[0] != [0, 1]
    assert [len(one) for one in shares(3, 0.5, 1.5)] == [2]
    assert list(shares(1, 0.125, 2.0)) == []
