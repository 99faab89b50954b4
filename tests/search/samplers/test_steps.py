"""Points as what they mean, their smallest steps, and what is left around the front."""

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.samplers.around import around, ranks, undominated
from search.samplers.points import Point, Walker, key_of
from search.samplers.steps import beside, draw, steps
from search.study.stand_in import default
from spaces import sets
from trainables.magnitude import Magnitude
from trainables.neurons.method import Neurons
from trainables.omission.method import Omission
from trainables.wanda import Wanda, WandaSequential

DOWN = [StudyDirection.MINIMIZE] * 2
PRICE = {n: float(n) for n in range(6)}


@dataclass(frozen=True)
class Taken:
    """Stands in for a stage."""

    blocks: tuple[int, ...]
    zeros: int

    def to_dict(self) -> dict[str, Any]:
        return {"stage": "Taken", "fields": {"blocks": self.blocks, "zeros": self.zeros}}


def ask(trial: Any) -> list[Taken]:
    chosen = sets.suggest(trial, "skip", range(1, 5), PRICE, 2)
    return [Taken(chosen, trial.suggest_int("zeros", 0, 20, step=10))]


def walk(**params: Any) -> Point:
    point = Walker(ask).walk(params, lambda _, asked: default(asked))
    assert point is not None
    return point


def cut(number: int) -> Point:
    """Three candidates, of which the count keeps the cheapest."""
    return walk(**{"skip.count": number, "skip.01": 0, "skip.02": 1, "skip.03": 1, "skip.04": 1})


def test_points_that_mean_the_same_are_one() -> None:
    assert cut(1).key == walk(**{"skip.count": 2, "skip.02": 1}).key
    assert cut(1).key != cut(2).key
    assert key_of([Taken((2,), 0)]) == cut(1).key
    assert key_of(None) is None and key_of([3]) is None


def test_stages_that_ask_for_nothing_are_no_part_of_a_model() -> None:
    assert key_of([Omission(), Wanda(0.0)]) == key_of([])
    assert key_of([Omission((2,)), Wanda(0.0)]) == key_of([Omission((2,))])
    idle = [Neurons(), Magnitude(), WandaSequential(0.0)]
    assert all(one.idle for one in idle) and key_of(idle) == key_of([])
    busy = [Neurons(0.1), Magnitude(pattern=(2, 4)), Wanda(pattern=(2, 4)), Omission(ffn=(1,))]
    assert not any(one.idle for one in busy)


def test_a_walk_fills_what_is_missing_or_out_of_range_and_knows_a_refusal() -> None:
    assert walk(zeros=15).params["zeros"] == 0
    assert walk(zeros=20).params["zeros"] == 20

    def refuses(trial: Any) -> None:
        raise ValueError("never")

    assert Walker(refuses).walk({}, lambda _, asked: default(asked)) is None


def test_the_members_that_count_are_those_its_stages_name() -> None:
    assert cut(1).members["skip"] == [2]
    assert cut(2).members["skip"] == [2, 3]


def test_the_smallest_steps() -> None:
    walker = Walker(ask)
    found = [walker.walk(params, lambda _, asked: default(asked)) for params in steps(cut(1))]
    meant = {(one.stages[0]["fields"]["blocks"], one.params["zeros"]) for one in found}  # type: ignore[union-attr,index]
    gone, switched = {((), 0)}, {((n,), 0) for n in (1, 3, 4)}
    added = {((1, 2), 0), ((2, 3), 0), ((2, 4), 0)}
    assert meant == gone | switched | added | {((2,), 10)}


@pytest.mark.parametrize(
    ("asked", "value", "near"),
    [
        (IntDistribution(0, 50, step=10), 0, [10]),
        (IntDistribution(1, 64, log=True), 8, [4, 16]),
        (CategoricalDistribution(["a", "b", "c"]), "b", ["a", "c"]),
        (FloatDistribution(0.1, 0.4, step=0.1), 0.2, [0.1, 0.3]),
        (FloatDistribution(0.0, 1.0), 0.95, [pytest.approx(0.85)]),
        (FloatDistribution(1e-6, 1e4, log=True), 1.0, [pytest.approx(0.1), pytest.approx(10.0)]),
    ],
)
def test_one_step_aside(asked: Any, value: Any, near: list[Any]) -> None:
    assert beside(asked, value) == near
    rng = Random(0)
    assert all(asked._contains(asked.to_internal_repr(draw(rng, asked))) for _ in range(50))


def trial(number: int, values: list[float], missed: float = 0.0, **params: Any) -> FrozenTrial:
    point = walk(**params)
    made = create_trial(
        state=TrialState.COMPLETE,
        values=values,
        params=point.params,
        distributions=dict(point.asked),
    )
    made.set_constraint("limit", missed)
    made.number = number
    return made


def test_the_front_is_of_the_feasible_and_of_the_nearest_where_none_is() -> None:
    rows = [
        trial(1, [1.0, 5.0]),
        trial(2, [2.0, 6.0]),
        trial(3, [0.0, 0.0], missed=0.5),
        trial(4, [2.0, 3.0]),
    ]
    assert [one.number for one in ranks(rows, DOWN)[0]] == [1, 4]
    assert [one.number for one in ranks(rows[2:3], DOWN)[0]] == [3]


def test_what_is_left_is_found_around_the_front_first_and_then_everywhere() -> None:
    rows = [trial(1, [1.0, 1.0], **{"skip.count": 1, "skip.01": 1})]
    known = {str(walk(**rows[0].params).key)}
    near = {walk(**params).key for params in steps(walk(**rows[0].params))}
    for number in range(len(near)):
        found = around(ask, rows, DOWN, known, Random(number))
        assert found is not None and walk(**found).key in near - known
        known.add(str(walk(**found).key))
    while (found := around(ask, rows, DOWN, known, Random(0))) is not None:
        known.add(str(walk(**found).key))
    assert len(known) == (1 + 4 + 6) * 3


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_what_no_other_is_better_than_is_found_by_looking_at_all_pairs(objectives: int) -> None:
    random = np.random.default_rng(objectives)
    for most in range(1, 9):  # few values, so that many are equal in one or in all
        values = random.integers(0, most, (30, objectives)).astype(float)
        values[values == most - 1] = np.inf
        wanted = [
            not any((other <= one).all() and (other < one).any() for other in values)
            for one in values
        ]
        assert undominated(values).tolist() == wanted
    assert undominated(np.empty((0, objectives))).tolist() == []
