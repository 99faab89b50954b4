"""Trained once, shared by all: one trains, the others take over weights and progress."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

from tests.support.planted import tiny
from tests.support.same import same_tensors
from trainables.bench.training.loop import TrainingSteps, tensors_of
from trainables.bench.training.shared import once, trained_once
from trainables.core.cache import Cache
from trainables.core.types import PreTrainedModel
from trainables.stage import drain


def doubling(model: PreTrainedModel, ran: list[Path]) -> Callable[[Path], TrainingSteps]:
    """A training of two epochs, each of which doubles all weights."""

    def train(checkpoint: Path) -> TrainingSteps:
        ran.append(checkpoint)
        told = []
        for epoch in (1.0, 2.0):
            for value in tensors_of(model).values():
                value.mul_(2)
            told.append({"epoch": epoch})
            yield told[-1]
        return told

    return train


def test_the_first_trains_and_the_others_take_over(tmp_path: Path) -> None:
    models, ran = [tiny("bert", depth=1) for _ in range(3)], []
    found = []
    for model in models:
        cache = Cache(tmp_path)
        found.append(drain(trained_once(cache, "some", "key", model, doubling(model, ran))))
        cache.release()
    assert [new for _, new in found] == [True, False, False] and len(ran) == 1
    assert [told for told, _ in found] == [[{"epoch": 1.0}, {"epoch": 2.0}]] * 3
    assert same_tensors(models[0], models[1]) and same_tensors(models[0], models[2])
    other = tiny("bert", depth=1)
    drain(trained_once(Cache(tmp_path), "some", "other", other, doubling(other, ran)))
    assert len(ran) == 2, "another key is another training"


def test_weights_and_progress_are_one_file(tmp_path: Path) -> None:
    """So that neither is evicted without the other."""
    model = tiny("bert", depth=1)
    drain(trained_once(Cache(tmp_path), "some", "key", model, doubling(model, [])))
    kept = [path.name for path in (tmp_path / "some").iterdir() if path.suffix != ".lock"]
    assert kept == ["key.safetensors"]


def test_while_one_trains_nobody_else_does(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    running = trained_once(Cache(tmp_path), "some", "key", model, doubling(model, []))
    next(running)
    lock = FileLock(tmp_path / "some" / ".key.training.lock", timeout=0)
    with pytest.raises(Timeout), lock:
        pass
    running.close()  # as a scheduler does
    with lock:
        assert not (tmp_path / "some" / "key.safetensors").exists()


def test_what_was_taken_over_is_not_the_file(tmp_path: Path) -> None:
    """Training goes on in place, and the file is mapped by everybody."""
    first, second = tiny("bert", depth=1), tiny("bert", depth=1)
    for model in (first, second):
        drain(trained_once(Cache(tmp_path), "some", "key", model, doubling(model, [])))
    with once(Cache(tmp_path), "some", "key") as entry:
        kept = entry.find()
    assert kept is not None
    before = {name: value.clone() for name, value in kept[0].items()}
    for value in tensors_of(second).values():
        value.zero_()
    assert all(torch.equal(before[name], value) for name, value in kept[0].items())
