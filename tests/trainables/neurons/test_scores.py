"""The four measures against numbers worked out by hand."""

import pytest
import torch
from torch import Tensor

from trainables.neurons.scores import (
    Against,
    activation_scores,
    relative,
    wanda_power,
    weight_power,
)


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("against", ["layer", "model"])
def test_activations(against: Against) -> None:
    mean, largest = [of(1, 4), of(0.8, 1)], [of(8, 2), of(2, 1)]
    weights = (0.5, 0.3, 0.2)
    activity = [of(1, 0.5), of(0.5, 0.5)]
    one, other = activation_scores(mean, largest, activity, weights, against)
    # .5 * 1/4 + .3 * 8/8 + .2 * 1 and .5 * 4/4 + .3 * 2/8 + .2 * .5
    assert one.tolist() == pytest.approx([0.625, 0.675])
    # by layer .5 * .8 + .3 + .1; by model .5 * .8/4 + .3 * 2/8 + .1
    expected = {"layer": [0.8, 0.75], "model": [0.275, 0.2625]}[against]
    assert other.tolist() == pytest.approx(expected)


def test_a_dead_layer_scores_nothing() -> None:
    zeros = [of(0, 0), of(0, 0)]
    found = activation_scores(zeros, zeros, zeros, (0.7, 0.2, 0.1))
    assert torch.cat(found).tolist() == [0, 0, 0, 0]
    assert relative([of(0, 0)])[0].tolist() == [0, 0]


def test_weights_and_wanda() -> None:
    gate, up, down = of(1, 2, 0, 3).view(2, 2), of(1, 0, 2, 0).view(2, 2), of(1, -2).view(1, 2)
    assert weight_power([gate, up], down).tolist() == pytest.approx([7 / 3, 17 / 3])
    assert wanda_power(down, of(3, 0.5)).tolist() == [3, 1]


def test_values_are_measured_against_their_layer_or_the_model() -> None:
    layers = [of(1, 3), of(10, 30)]
    assert [one.tolist() for one in relative(layers)] == [[0.5, 1.5], [0.5, 1.5]]
    assert relative(layers, "model")[1].tolist() == pytest.approx([10 / 11, 30 / 11])
