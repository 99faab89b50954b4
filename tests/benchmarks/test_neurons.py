"""A trial with torch-pruning, where it is installed, keeps the very weights that ours keeps."""

import json

import pytest
import torch

from benchmarks.neurons import compare, ours, same
from tests.support.families import batches, build
from trainables.neurons.calibrate import Weights


def test_other_neurons_are_other_weights() -> None:
    model = build("llama")
    stats = Weights.calibrate(model, [])
    one, other = ours(model, 0.25, stats), ours(model, 0.25, stats)
    assert same(one, other) and not same(one, ours(model, 0.5, stats))
    with torch.no_grad():
        other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight + 1)
    assert not same(one, other)


@pytest.mark.filterwarnings("ignore")  # what torch-pruning's imports say
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_both_keep_the_same(name: str) -> None:
    pytest.importorskip("torch_pruning")
    found = compare(build(name), batches(name)[0]["input_ids"], 0.25, repeats=1)
    assert found["equal"] and found["after"]["parameters"] < found["before"]["parameters"]
    assert json.dumps(found)
