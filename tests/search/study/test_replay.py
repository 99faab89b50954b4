"""A space whose code changed between two launches: what may differ, and what is told."""

from collections.abc import Callable
from typing import Any

import optuna
import pytest

from search.study.replay import still_asks
from trainables.core.errors import UserError

Ask = Callable[[Any], object]


def before(trial: Any) -> None:
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        trial.suggest_int("a.n", 0, 5)
    else:
        trial.suggest_float("b.rate", 1e-4, 1e-2, log=True)


@pytest.fixture
def rows() -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for kind in "aabb":
        study.enqueue_trial({"kind": kind})
        trial = study.ask()
        before(trial)
        study.tell(trial, 0.0)
    return study.trials


def wider(trial: Any) -> None:
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        trial.suggest_int("a.n", 2, 50)
        trial.suggest_int("a.more", 0, 3)


def moody(trial: Any) -> None:
    raise ValueError("not this one")


@pytest.mark.parametrize("now", [before, wider, moody])
def test_ranges_may_move_and_parameters_come_and_go(
    now: Ask, rows: list[optuna.trial.FrozenTrial]
) -> None:
    asked: list[object] = []

    def noted(trial: Any) -> object:
        asked.append(trial)
        return now(trial)

    still_asks("mine", noted, rows)
    assert asked, "the rows were replayed"


def one_more(trial: Any) -> None:
    trial.suggest_categorical("kind", ["a", "b", "c"])


def another_kind(trial: Any) -> None:
    if trial.suggest_categorical("kind", ["a", "b"]) == "b":
        trial.suggest_float("b.rate", 1e-4, 1e-2)


def by_words(trial: Any) -> None:
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        trial.suggest_categorical("a.n", ["few", "many"])
        raise KeyError("and broken besides")


@pytest.mark.parametrize(
    ("now", "parts"),
    [
        (one_more, ["space mine: kind is asked otherwise", 'got "a, b, c"; allowed: a, b;']),
        (
            another_kind,
            [
                "b.rate",
                'got "a number from 0.0001 to 0.01"; allowed: a number from',
                "by its logarithm",
            ],
        ),
        (by_words, ["a.n", 'got "few, many"; allowed: a whole number from 0 to 5', "a new name"]),
    ],
)
def test_another_question_under_the_same_name_is_one_message(
    now: Ask, parts: list[str], rows: list[optuna.trial.FrozenTrial]
) -> None:
    with pytest.raises(UserError) as error:
        still_asks("mine", now, rows)
    for part in parts:
        assert part in str(error.value)
