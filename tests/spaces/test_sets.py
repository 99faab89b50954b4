"""Sets as parameters and as lists: one encoding, written and read by one file."""

from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from spaces import sets

PRICE = dict.fromkeys(range(8), 0.5) | {5: 0.1, 3: 0.2}


def params(count: int, *members: int) -> dict[str, Any]:
    each = {f"s.skip.{n:02d}": int(n in members) for n in range(1, 7)}
    return {"s.skip.count": count, **each}


def chosen(given: dict[str, Any]) -> tuple[int, ...]:
    return sets.suggest(FixedTrial(given), "s.skip", range(1, 7), PRICE, 4)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (params(0), {"s.skip": []}),
        (params(2, 3, 5), {"s.skip": [3, 5]}),
        (params(4, 3, 5), {"s.skip": [3, 5]}),
        (params(2, 2, 3, 5), {"s.skip": [2, 3, 5], "s.skip.count": 2}),
        (params(0, 2), {"s.skip": [2], "s.skip.count": 0}),
    ],
)
def test_what_is_read_means_the_same_set(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert sets.read(given) == read
    members = read["s.skip"]
    spelled = {name: read.get(name, sets.spell(members, name)) for name in given}
    assert chosen(spelled) == chosen(given)


@pytest.mark.parametrize(
    "other",
    [
        {"wanda.percent": 30},
        {"top.2": 0.5},
        {"layer.2": 1},
        {"ratio.05": 0.5},
        {"flag.05": True},
        {"epoch.count": 3},
    ],
)
def test_other_parameters_are_left_alone(other: dict[str, Any]) -> None:
    assert sets.read({**params(1, 2), **other}) == {"s.skip": [2], **other}


def test_sets_without_a_count_and_of_many_blocks() -> None:
    given = {"a.03": 1, "a.100": 1, "a.04": 0, "b.01": 0}
    assert sets.read(given) == {"a": [3, 100], "b": []}
    assert sets.groups(given) == {"a": {3: "a.03", 100: "a.100", 4: "a.04"}, "b": {1: "b.01"}}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_sampler_proposes_is_read_back(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(20):
        trial = study.ask()
        asked = sets.suggest(trial, "s.skip", range(1, 7), PRICE, 4)
        read = sets.read(trial.params)
        assert set(asked) <= set(read["s.skip"])
        assert len(asked) == min(read.get("s.skip.count", 99), len(read["s.skip"]))
