"""Beginning at the block where a model first differs: the same bits, and less work."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support import families
from tests.support.benches import TinyData, do, reading_of, tiny_bench
from trainables.bench.bench import Bench
from trainables.bench.metrics.predictions import Evaluation
from trainables.bench.models.batches import reaching
from trainables.bench.models.structure import blocks
from trainables.bench.prefix.forward import Resumed, Whole, Work
from trainables.bench.prefix.states import States
from trainables.core.types import Batch
from trainables.omission.method import Omission
from trainables.quantize import Quantize
from trainables.stage import Stage
from trainables.wanda import Wanda

SINGLE = ["llama", "qwen2", "gemma3_text", "gpt2", "bert", "roberta", "distilbert", "vit"]


def opened(folder: Path, name: str, *, naive: bool = False) -> Bench:
    model = families.build(name)
    made = {
        role: [with_labels(name, batch) for batch in families.batches(name)]
        for role in ("calibration", "search")
    }
    return reading_of(
        tiny_bench(folder, model, naive=naive), TinyData(model, "classification", made=made)
    )


def with_labels(name: str, batch: Batch) -> Batch:
    if name in families.DECODERS:
        padding = batch["attention_mask"] == 0
        return {**batch, "labels": batch["input_ids"].masked_fill(padding, -100)}
    return {**batch, "labels": torch.tensor([0, 1, 0, 1])}


@torch.no_grad()
def said(bench: Bench, batches: list[Batch], work: Work) -> list[Tensor]:
    """What a bench's model says to batches, as measuring would run it."""
    assert bench.prefixes is not None
    forward = bench.prefixes.forward(bench.subject, batches, work)
    return [forward(batch).logits for batch in batches]


@torch.no_grad()
def whole(bench: Bench, batches: list[Batch]) -> list[Tensor]:
    return [bench.model(**reaching(bench.model, batch)).logits for batch in batches]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    ("stages", "first"),
    [([], 3), ([Omission((2,))], 2), ([Omission((3,))], 2), ([Wanda(0.5)], 0)],
    ids=["base", "third", "last", "all"],
)
def test_it_says_what_the_whole_model_says(
    name: str, stages: list[Stage], first: int, tmp_path: Path
) -> None:
    bench = opened(tmp_path, name)
    batches, base = bench.data.batches("search"), Work()
    assert same(said(bench.fork(), batches, base), whole(bench.fork(), batches))
    assert base == Work(done=8, whole=8)
    own, work = bench.fork(), Work()
    do(own, *stages)
    assert same(said(own, batches, work), whole(own, batches))
    depth = len(blocks(own.model))
    assert work == Work(done=2 * (depth - first), whole=2 * depth)


@pytest.mark.parametrize("name", ["t5", "bart", "resnet", "convnext"])
def test_families_of_several_stacks_run_whole_and_say_why(name: str, tmp_path: Path) -> None:
    bench = opened(tmp_path, name)
    batches, work = families.batches(name), Work()
    batches = [{**b, "labels": b["decoder_input_ids"]} if "input_ids" in b else b for b in batches]
    assert same(said(bench.fork(), batches, work), whole(bench.fork(), batches))
    assert work == Work() and bench.prefixes is not None
    assert "stacks of blocks" in bench.prefixes.why


def test_trials_share_what_they_have_in_common_beyond_the_base(tmp_path: Path) -> None:
    bench, works = opened(tmp_path, "llama"), []
    batches = bench.data.batches("search")
    for stages in ([Wanda(0.5)], [Omission((3,)), Wanda(0.5)], [Omission((2,)), Wanda(0.5)]):
        own, work = bench.fork(), Work()
        do(own, *stages)
        assert same(said(own, batches, work), whole(own, batches))
        works.append(work.done)
    assert works == [2 * 4, 2 * 1, 2 * 1]


def test_quantized_blocks_are_known_by_what_they_hold(tmp_path: Path) -> None:
    bench, works = opened(tmp_path, "llama"), []
    batches = bench.data.batches("search")
    for spared in ((), (3,), (0, 1, 3)):
        own, work = bench.fork(), Work()
        do(own, Quantize("int8", spare_blocks=spared))
        assert same(said(own, batches, work), whole(own, batches))
        works.append(work.done)
    assert works == [2 * 4, 2 * 1, 2 * 4]


def test_a_model_in_training_or_of_another_class_runs_whole(tmp_path: Path) -> None:
    bench = opened(tmp_path, "llama")
    batches = bench.data.batches("search")
    assert bench.prefixes is not None
    training, other = bench.fork(), bench.fork()
    training.model.train()
    other.subject = replace(other.subject, model=families.build("qwen2"))
    for one in (training, other):
        assert isinstance(bench.prefixes.forward(one.subject, batches, Work()), Whole)


def test_another_worker_begins_where_one_left_off(tmp_path: Path) -> None:
    batches, found = opened(tmp_path, "llama").data.batches("search"), []
    for _ in range(2):
        bench, work = opened(tmp_path, "llama"), Work()
        found.append(said(bench, batches, work))
    assert same(*found) and work == Work(done=2, whole=8)


def test_only_batches_that_were_run_are_known(tmp_path: Path) -> None:
    bench, work = opened(tmp_path, "llama"), Work()
    one, other = bench.data.batches("search")
    said(bench, [one], Work())
    said(bench, [one, other], work)
    assert work == Work(done=1 + 4, whole=8)


def test_another_mask_is_another_batch(tmp_path: Path) -> None:
    bench, work = opened(tmp_path, "llama"), Work()
    one = bench.data.batches("search")[0]
    other = {**one, "attention_mask": torch.ones_like(one["attention_mask"])}
    said(bench, [one], Work())
    assert same(said(bench, [other], work), whole(bench, [other]))
    assert work == Work(done=4, whole=4)


def test_states_that_are_gone_are_computed_again(tmp_path: Path) -> None:
    bench, work = opened(tmp_path, "llama"), Work()
    batches = bench.data.batches("search")
    wanted = said(bench, batches, Work())
    for path in (tmp_path / "states").iterdir():
        path.unlink()
    assert same(said(bench, batches, work), wanted) and work == Work(done=8, whole=8)


@pytest.mark.parametrize(("room", "kept"), [(1.0, [1, 2, 3]), (0.4, [3]), (0.2, [])])
def test_how_many_are_kept_follows_from_the_room(
    room: float, kept: list[int], tmp_path: Path
) -> None:
    bench = opened(tmp_path, "llama")
    batches = bench.data.batches("search")
    everything = 4 * sum(batch["input_ids"].numel() * 32 * 4 for batch in batches)
    assert bench.prefixes is not None
    bench.prefixes.states = States(tmp_path / "small", int(2 * room * everything))
    work = Work()
    forward = bench.prefixes.forward(bench.subject, batches, work)
    assert isinstance(forward, Resumed)
    wanted = [forward(batch).logits for batch in batches]
    found = [n for n in range(1, 4) if forward.common(batches, n) == n]
    assert found == kept
    assert same([forward(batch).logits for batch in batches], wanted)


def test_where_blocks_are_cheap_few_states_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.bench.prefix.forward.APART", {"cpu": 2})
    bench, work = opened(tmp_path, "llama"), Work()
    batches = bench.data.batches("search")
    said(bench.fork(), batches, Work())
    assert len(list((tmp_path / "states").iterdir())) == 2  # before block 2, of each batch
    own = bench.fork()
    do(own, Omission((3,)))
    assert same(said(own, batches, work), whole(own, batches))
    assert work == Work(done=2, whole=6)
    assert len(list((tmp_path / "states").iterdir())) == 2


def evaluations(bench: Bench, work: Work) -> Iterator[Evaluation]:
    batches = bench.data.batches("search")
    assert bench.prefixes is not None
    for forward in (None, bench.prefixes.forward(bench.subject, batches, work)):
        yield Evaluation(bench, "search", forward)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_losses_are_equal_to_the_last_bit(name: str, tmp_path: Path) -> None:
    bench, work = opened(tmp_path, name), Work()
    said(bench.fork(), bench.data.batches("search"), Work())
    own = bench.fork()
    do(own, Omission((2,)))
    one, other = evaluations(own, work)
    assert torch.equal(one.token_losses[0], other.token_losses[0])
    assert work == Work(done=2, whole=6)


def test_a_bench_measures_the_same_as_its_naive_twin(tmp_path: Path) -> None:
    found = []
    for naive in (True, False):
        bench = opened(tmp_path / str(naive), "bert", naive=naive)
        for gone in ((), (3,), (2,)):
            own = bench.fork()
            do(own, Omission(gone))
            values = own.measure(["loss", "accuracy"]).values
            found.append((naive, gone, values["loss"], own.work.done, own.work.whole))
    naive, ours = found[:3], found[3:]
    assert [one[2] for one in naive] == [one[2] for one in ours]
    assert [one[3:] for one in naive] == [(0, 0)] * 3
    assert [one[3:] for one in ours] == [(8, 8), (2, 6), (2, 6)]


def test_what_is_timed_runs_whole(tmp_path: Path) -> None:
    bench = opened(tmp_path, "bert")
    bench.fork().measure(["loss"])
    own = bench.fork()
    do(own, Omission((3,)))
    own.measure(["loss", "evaluation_seconds"])
    assert own.work == Work()


def test_other_settings_are_not_taken_for_the_same(tmp_path: Path) -> None:
    bench = opened(tmp_path, "llama")
    assert bench.prefixes is not None
    salted = replace(bench.prefixes, salt="other threads")
    batches, work = bench.data.batches("search"), Work()
    said(bench, batches, Work())
    forward = salted.forward(bench.subject, batches, work)
    assert not isinstance(forward, Whole)
    forward(batches[0])
    assert work == Work(done=4, whole=4)
