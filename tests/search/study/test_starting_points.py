"""Points given by hand: sets by their members, ranges held, what is left open left open."""

from typing import Any

import optuna
import pytest

from search.study.starting_points import read_point
from spaces import sets
from trainables.core.errors import UserError


def ask(trial: Any) -> None:
    sets.suggest(trial, "omission.skip", range(1, 5), dict.fromkeys(range(5), 0.0), 3)
    trial.suggest_int("wanda.percent", 0, 50, step=10)
    trial.suggest_float("recover.rate", 1e-5, 1e-3, log=True)
    trial.suggest_categorical("recover.kind", ["full", "lora"])


def skipped(count: int, *members: int) -> dict[str, int]:
    each = {f"omission.skip.0{n}": int(n in members) for n in range(1, 5)}
    return {"omission.skip.count": count, **each}


@pytest.mark.parametrize(
    ("point", "params"),
    [
        ({}, {}),
        ({"wanda.percent": 30}, {"wanda.percent": 30}),
        ({"omission.skip": [2]}, skipped(1, 2)),
        ({"omission.skip": (4, 2)}, skipped(2, 2, 4)),
        ({"omission.skip": []}, skipped(0)),
        ({"omission.skip.03": 1}, {"omission.skip.03": 1}),
        ({"recover.rate": 1e-4, "recover.kind": "lora"},) * 2,
    ],
)
def test_a_point_becomes_parameters(point: dict[str, Any], params: dict[str, Any]) -> None:
    assert read_point(point, ask, "first[0]") == params


@pytest.mark.parametrize(
    ("point", "parts"),
    [
        (
            {"wanda.percents": 30},
            [
                "first[1]: the space has no wanda.percents",
                "allowed: omission.skip, wanda.percent, recover.rate, recover.kind",
                'did you mean "wanda.percent"?',
            ],
        ),
        ({"wanda.percent": 60}, ["first[1]: wanda.percent: got 60", "from 0 to 50 in steps of 10"]),
        ({"wanda.percent": 35}, ["got 35", "in steps of 10"]),
        ({"wanda.percent": 30.0}, ["got 30.0", "a whole number"]),
        ({"wanda.percent": True}, ["got true", "a whole number"]),
        ({"recover.rate": 1}, ["recover.rate: got 1", "a number from 1e-05 to 0.001"]),
        ({"recover.rate": "fast"}, ['got "fast"', "a number from"]),
        ({"recover.kind": "half"}, ['got "half"', "allowed: full, lora"]),
        ({"omission.skip": [2, 9]}, ["omission.skip: got [9]", "members from 1 to 4"]),
        ({"omission.skip": [1, 2, 3, 4]}, ["omission.skip.count: got 4", "from 0 to 3"]),
        ({"omission.skip": ["2"]}, ["omission.skip: got", "members from 1 to 4"]),
        ({"omission.skip.03": 2}, ["omission.skip.03: got 2", "from 0 to 1"]),
        ({"omission.skip": 3}, ["the space has no omission.skip"]),
        ({"wanda": [1]}, ["the space has no wanda"]),
    ],
)
def test_a_wrong_point_says_what_is_wrong(point: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read_point(point, ask, "first[1]")
    for part in parts:
        assert part in str(error.value)


def test_what_a_point_leaves_open_is_for_the_sampler() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(read_point({"omission.skip": [2]}, ask, "starts"))
    trial = study.ask()
    ask(trial)
    assert [trial.params[f"omission.skip.0{n}"] for n in range(1, 5)] == [0, 1, 0, 0]
    assert set(trial.params) > {"wanda.percent", "recover.rate", "recover.kind"}


def test_a_point_follows_the_branch_it_takes() -> None:
    def branching(trial: Any) -> None:
        if trial.suggest_categorical("method", ["wanda", "neurons"]) == "wanda":
            trial.suggest_int("wanda.percent", 0, 50)
        else:
            trial.suggest_int("neurons.percent", 0, 50)

    point = {"method": "neurons", "neurons.percent": 20}
    assert read_point(point, branching, "first[0]") == point
    with pytest.raises(UserError, match="the space has no wanda"):
        read_point({"method": "neurons", "wanda.percent": 20}, branching, "first[0]")
