"""The neurons' spaces: what a point means, the published starts, ranges that a study sets."""

from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from search.errors import StudyError
from search.samplers.grid import grid_points
from search.study.schema import SpaceSpec
from search.study.space import load_space
from search.study.starting_points import read_point
from spaces.neurons import NeuronsSpace
from spaces.omission_neurons_wanda import OmissionNeuronsWandaSpace
from trainables.neurons import Neurons
from trainables.omission.method import Omission
from trainables.stage import Facts
from trainables.wanda import Wanda

FACTS = Facts(blocks=6, stacks=(6,), survey={"influence": [0.0, 0.4, 0.2, 0.6, 0.1, 0.0]})
POINT: dict[str, Any] = {
    "neurons.prune_ratio": 0.25,
    "neurons.max_prune_per_layer": 0.45,
    "neurons.min_neurons_per_layer": 400,
    "neurons.layer_scale.early": 0.2,
    "neurons.layer_scale.middle": 1.0,
    "neurons.layer_scale.late": 2.2,
    "neurons.weight.mean": 0.8,
    "neurons.weight.max": 0.1,
    "neurons.weight.activity": 0.1,
}


def only(space: NeuronsSpace, trial: Any) -> Neurons:
    (stage,) = space.stages(trial, FACTS)
    assert isinstance(stage, Neurons)
    return stage


def test_a_point_is_a_pruning() -> None:
    stage = only(NeuronsSpace(), FixedTrial(POINT))
    assert (stage.prune_ratio, stage.max_prune_per_layer) == (0.25, 0.45)
    assert (stage.min_neurons_per_layer, stage.layer_scale) == (400, (0.2, 1.0, 2.2))
    assert stage.weights == pytest.approx((0.8, 0.1, 0.1))
    assert (stage.edge_protect, stage.round_to, stage.uniform) == (2, 1, False)


def test_importance_weights_always_sum_to_one() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    for _ in range(20):
        stage = only(NeuronsSpace(), study.ask())
        assert sum(stage.weights) == pytest.approx(1) and 0.05 <= stage.prune_ratio <= 0.3
        assert stage.prune_ratio == round(stage.prune_ratio, 4)
    zeros = POINT | dict.fromkeys([name for name in POINT if ".weight." in name], 0.0)
    with pytest.raises(ValueError, match="all three are 0"):
        only(NeuronsSpace(weight=(0, 1)), FixedTrial(zeros))


def test_the_published_phases_come_first_and_are_points_of_the_space() -> None:
    space = NeuronsSpace()
    starts = space.starts(FACTS)
    assert starts[-1] == POINT and starts[0]["neurons.prune_ratio"] == 0.05
    assert [one["neurons.prune_ratio"] for one in starts[1:6]] == [0.1, 0.15, 0.2, 0.25, 0.3]
    for number, one in enumerate(starts):
        read = read_point(one, lambda trial: space.stages(trial, FACTS), f"start {number}")
        assert read == one and isinstance(only(space, FixedTrial(read)), Neurons)
    narrow = NeuronsSpace(prune_ratio=(0.1, 0.1), score=("wanda", "weight"), round_to=(8, 64))
    assert {one["neurons.prune_ratio"] for one in narrow.starts(FACTS)} == {0.1}
    assert only(narrow, FixedTrial(narrow.starts(FACTS)[0])).score == "wanda"


def test_choices_are_asked_for_where_there_are_some() -> None:
    space = NeuronsSpace(score=("weight", "gradient"), round_to=(8, 64), uniform=(False, True))
    more = {"neurons.score": "gradient", "neurons.round_to": 64, "neurons.uniform": True}
    stage = only(space, FixedTrial(POINT | more))
    assert (stage.score, stage.round_to, stage.uniform) == ("gradient", 64, True)
    whole = {"prune_ratio": (0.1, 0.12), "max_prune_per_layer": (0.3, 0.3), "late": (2, 2)}
    even = NeuronsSpace(**whole, min_neurons_per_layer=(1, 1), early=(1, 1), score=("weight",))
    points = grid_points(lambda trial: even.stages(trial, FACTS))
    assert [one["neurons.prune_ratio"] for one in points] == [0.1, 0.11, 0.12]


@pytest.mark.parametrize(
    "wrong",
    [
        {"prune_ratio": [0.3, 0.1]},
        {"prune_ratio": [0.1, 1.0]},
        {"max_prune_per_layer": [0.1, 0.125]},
        {"min_neurons_per_layer": [9, 2]},
        {"late": [-1, 1]},
        {"weight": [0, 0]},
        {"score": ["taylor"]},
        {"round_to": [0]},
    ],
)
def test_a_wrong_range_is_told(wrong: dict[str, object]) -> None:
    with pytest.raises(StudyError, match=next(iter(wrong))):
        load_space(SpaceSpec(name="neurons", options=wrong))


def test_the_chain_omits_then_narrows_then_zeroes() -> None:
    space = OmissionNeuronsWandaSpace(max_skip=2)
    starts = space.starts(FACTS)
    ask = lambda trial: space.stages(trial, FACTS)  # noqa: E731
    for number, one in enumerate(starts):
        params = read_point(one, ask, f"start {number}")
        omitted, narrowed, zeroed = space.stages(FixedTrial(params), FACTS)
        assert isinstance(omitted, Omission) and omitted.skip == tuple(one["omission.skip"])
        assert isinstance(narrowed, Neurons) and zeroed == Wanda(0.0)
    assert [one["omission.skip"] for one in starts[:3]] == [[4], [2, 4], []]
