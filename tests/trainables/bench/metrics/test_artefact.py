"""What a saved model costs, and what counts as saved."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.families import batches, build
from trainables.bench.metrics.artefact import Cost, cost, measure, weight_bytes
from trainables.bench.metrics.cost import count_parameters, own_bytes
from trainables.bench.models.batches import ready
from trainables.neurons import Neurons
from trainables.testing import applied

BEFORE = Cost(1000, 4000, 8000, latency_ms=10.0, fast_ms=9.0, slow_ms=12.0)


@pytest.mark.parametrize(
    ("changed", "less"),
    [
        ({}, ()),
        ({"parameters": 995}, ("parameters",)),
        ({"parameters": 996, "bytes": 3000}, ("bytes",)),
        ({"memory": 8100, "latency_ms": 8.0, "slow_ms": 8.9}, ("latency",)),
        ({"latency_ms": 8.0, "slow_ms": 9.1}, ()),  # one tenth overlaps
    ],
)
def test_what_is_really_less(changed: dict[str, float], less: tuple[str, ...]) -> None:
    assert replace(BEFORE, **changed).saves(BEFORE) == less  # type: ignore[arg-type]


def test_measured_twice_is_as_quick_as_the_quicker_and_as_spread_as_both() -> None:
    later = replace(BEFORE, latency_ms=9.5, fast_ms=9.2, slow_ms=14.0)
    assert BEFORE.again(later) == replace(BEFORE, latency_ms=9.5, slow_ms=14.0)


def test_a_narrower_model_costs_less() -> None:
    model, batch = build("llama"), batches("llama")[0]
    small, _ = applied(Neurons(0.4), model, [batch])
    one, other = (measure(each, ready(model, batch)) for each in (small, model))
    assert one["parameters"] == count_parameters(small) < other["parameters"]
    assert own_bytes(small) < one["memory"] < other["memory"]
    assert 0 < one["fast_ms"] <= one["latency_ms"] <= one["slow_ms"]


def test_bytes_are_those_of_the_forms_own_weights(tmp_path: Path) -> None:
    for name, size in (("a.safetensors", 5), ("inner/b.bin", 7), ("exact/c.safetensors", 11)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "tokenizer.json").write_text("not counted")
    assert weight_bytes(tmp_path) == 23 and weight_bytes(tmp_path / "exact") == 11
    measured = {"parameters": 3.0, "memory": 9.0, "latency_ms": 1.5, "fast_ms": 1.0, "slow_ms": 2.0}
    assert cost(measured, tmp_path, "exact") == Cost(3, 12, 9, 1.5, 1.0, 2.0)
