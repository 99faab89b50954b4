"""Block influence on every kind of stack, and the sets that start from it, on a real bench."""

from pathlib import Path

import pytest
import torch

from spaces.omission import OmissionSpace
from tests.support.benches import do, tiny_bench
from tests.support.families import batch_of, kind
from tests.support.planted import plant, tiny
from trainables.bench.models.structure import blocks, fixed_blocks
from trainables.bench.survey import gather
from trainables.omission.importance import BlockInfluence
from trainables.omission.method import Omission
from trainables.similarity.method import Similarity

QUIET = {"bert": {2, 4}, "vit": {2, 4}, "resnet": {1, 4}, "t5": {2, 7}, "distilbert": {1, 4}}


@pytest.mark.parametrize("name", QUIET)
def test_blocks_that_hardly_change_anything_rank_first(name: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, plant(tiny(name), QUIET[name]))
    found = bench.stats(BlockInfluence)["influence"]
    assert found.shape == (len(blocks(bench.model)),) and bool(torch.isfinite(found).all())
    free = [n for n in range(len(found)) if n not in fixed_blocks(bench.model)]
    assert set(sorted(free, key=lambda n: float(found[n]))[:2]) == QUIET[name]


@pytest.mark.parametrize("name", QUIET)
def test_a_study_starts_from_them_and_applies_them(name: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, plant(tiny(name), QUIET[name]))
    space, before = OmissionSpace(), bench.measure(["loss", "parameters"]).values
    facts = gather(bench, space)
    first = [point for point in space.starts(facts) if len(point["omission.skip"]) == 2]
    assert [set(point["omission.skip"]) for point in first] == [QUIET[name]]
    (summary,) = do(bench, Omission(skip=tuple(first[0]["omission.skip"])))
    after = bench.measure(["loss", "parameters"]).values
    assert summary.counts["removed"] == 2
    assert len(blocks(bench.model)) == facts.blocks - 2
    assert after["parameters"] < before["parameters"]
    assert after["loss"] == pytest.approx(before["loss"], rel=0.05)


@pytest.mark.parametrize("name", ["bart", "bart_classifier", "umt5", "convnext"])
def test_so_do_models_of_other_kinds(name: str, tmp_path: Path) -> None:
    model = kind(name)
    influence = BlockInfluence.calibrate(model, [batch_of(model)])["influence"]
    assert len(influence) == len(blocks(model)) and float(influence.min()) >= 0


@pytest.mark.parametrize("name", ["bart", "bart_classifier", "convnext"])
def test_similarity_leaves_every_stack_a_block(name: str) -> None:
    model = kind(name)
    batch = {name: value.repeat_interleave(4, 0) for name, value in batch_of(model).items()}
    stats = Similarity.calibrate(model, [batch])
    summary = Similarity(threshold=0.0).apply(model, stats)
    kept = summary.details["kept_per_stack"]
    assert summary.counts["removed"] > 0 and min(kept) >= 1
    assert torch.isfinite(model(**batch_of(model)).logits).all()
