"""Calibrating from the block where models part: the numbers of whole passes, and less work."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import families
from tests.support.benches import TinyData, do, reading_of, tiny_bench
from trainables.bench.bench import Bench
from trainables.bench.prefix.calibrate import ByBlock
from trainables.bench.prefix.forward import Work
from trainables.core.types import Batch, PreTrainedModel, Stats
from trainables.neurons.calibrate import Activations, AnswerActivations
from trainables.omission.method import Omission
from trainables.similarity.method import Similarity
from trainables.stage import Stage
from trainables.wanda import Wanda

SINGLE = ["llama", "gemma3_text", "gpt2", "bert", "vit"]
METHODS: list[Any] = [Wanda, Activations, AnswerActivations, Similarity]


def opened(folder: Path, name: str, count: int = 2) -> Bench:
    model = families.build(name)
    made = {"calibration": [_labelled(name, one) for one in families.batches(name, count)]}
    return reading_of(tiny_bench(folder, model), TinyData(model, "classification", made=made))


def _labelled(name: str, batch: Batch) -> Batch:
    if name not in families.DECODERS:
        return batch
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, :3] = -100
    return {**batch, "labels": labels}


def equal(one: Stats, other: Stats) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def after(bench: Bench, *stages: Stage) -> Bench:
    own = bench.fork()
    do(own, *stages)
    own.work = Work()
    return own


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SINGLE)
def test_it_finds_what_whole_passes_find(name: str, method: Any, tmp_path: Path) -> None:
    bench, works = opened(tmp_path, name), []
    for stages in ([], [Omission((3,))], [Omission((1, 3))], [Omission((1, 2))]):
        own = after(bench, *stages)
        wanted = method.calibrate(own.model, own.batches("calibration"))
        assert equal(own.stats(method), wanted)
        works.append((own.work.done, own.work.whole))
    runs = 8 if method is Wanda else 2  # one for each sample, or batch
    assert works == [(4 * runs, 4 * runs), (0, 3 * runs), (runs, 2 * runs), (runs, 2 * runs)]


def test_what_one_method_found_is_no_other_methods(tmp_path: Path) -> None:
    own = after(opened(tmp_path, "llama"))
    every, answers = own.stats(Activations), own.stats(AnswerActivations)
    assert not torch.equal(every["mean.0"], answers["mean.0"])


def test_other_rows_are_calibrated_on_anew(tmp_path: Path) -> None:
    after(opened(tmp_path, "llama")).stats(Wanda)
    own = after(opened(tmp_path, "llama", count=3))
    found = own.stats(Wanda)
    assert equal(found, Wanda.calibrate(own.model, own.batches("calibration")))
    assert own.work == Work(done=12 * 4, whole=12 * 4)


def test_states_that_are_gone_are_computed_again(tmp_path: Path) -> None:
    bench = opened(tmp_path, "llama")
    after(bench).stats(Wanda)
    for path in (tmp_path / "states").iterdir():
        if path.stat().st_size > 1000:  # states; what was found stays
            path.unlink()
    own = after(bench, Omission((1,)))
    assert equal(own.stats(Wanda), Wanda.calibrate(own.model, own.batches("calibration")))


def test_chains_share_what_they_prune_alike(tmp_path: Path) -> None:
    bench, works = opened(tmp_path, "llama"), []
    for gone in ((3,), (2,)):
        own = after(bench, Omission(gone), Wanda(0.5))
        wanted = Activations.calibrate(own.model, own.batches("calibration"))
        assert equal(own.stats(Activations), wanted)
        works.append(own.work.done)
    assert works == [2 * 3, 2 * 1]


@pytest.mark.parametrize("name", ["t5", "resnet"])
def test_families_of_several_stacks_calibrate_whole(name: str, tmp_path: Path) -> None:
    own = after(opened(tmp_path, name))
    assert equal(own.stats(Wanda), Wanda.calibrate(own.model, own.batches("calibration")))
    assert own.work == Work()


class _Own(Wanda):
    """A user's, who calibrates in a way of their own."""

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        return {"mine": torch.ones(1)}


def test_who_calibrates_in_a_way_of_their_own_is_asked(tmp_path: Path) -> None:
    own = after(opened(tmp_path, "llama"))
    assert own.stats(_Own).keys() == {"mine"}


def test_a_method_that_goes_by_blocks_says_how() -> None:
    class Silent(ByBlock):
        """Says nothing of it."""

    with pytest.raises(TypeError, match="measure, owned"):
        Silent()
