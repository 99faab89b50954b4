"""Passes of pruning and retraining: accepted, undone, shared, and the same as the naive way."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.benches import do, tiny_bench
from tests.support.planted import plant, tiny
from trainables.bench import bench as bench_module
from trainables.bench.models.structure import blocks, linears
from trainables.core.errors import FieldError
from trainables.core.fork import same_tensors
from trainables.recover import Recover
from trainables.similarity.iterative import Iterate
from trainables.similarity.method import Similarity
from trainables.wanda import Wanda

FAST = Recover(epochs=1, lr=1e-3, batch_size=8)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Accuracy by number of blocks, instead of what the tiny model says."""
    table: dict[int, float] = {}

    def measured(bench: Any, names: Any) -> dict[str, float]:
        return {name: table[len(blocks(bench.model))] for name in names}

    monkeypatch.setattr(bench_module, "measure_all", measured)
    return table


def test_an_accepted_pass_stays(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {6: 0.90, 3: 0.87}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=1))
    assert len(blocks(bench.model)) == summary.counts["blocks"] == 3
    (entry,) = summary.counts["passes"]
    assert entry["accepted"] and entry["drop"] == pytest.approx(3.0)
    assert summary.counts["stopped"] == "all passes done"


def test_it_falls_back_to_the_next_k(tmp_path: Path, scores: dict[int, float]) -> None:
    """All of the alike blocks are too many, half of them are not."""
    scores |= {6: 0.90, 3: 0.80, 4: 0.88}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=1))
    assert [(e["k"], e["blocks"], e["accepted"]) for e in summary.counts["passes"]] == [
        (1, 3, False),
        (2, 4, True),
    ]
    assert len(blocks(bench.model)) == 4
    assert len(summary.effect["chain"]) == 2


def test_it_gives_up_after_the_last_k(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {6: 0.90, 3: 0.10, 4: 0.10}
    model = plant(tiny("bert"), {2, 3, 5})
    bench = tiny_bench(tmp_path, model)
    before = bench.lineage
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=2))
    assert summary.effect is None and bench.lineage == before
    assert "k = 3" in summary.counts["stopped"] and len(summary.counts["passes"]) == 3
    assert same_tensors(bench.model, model)


def test_the_drop_is_against_the_original(tmp_path: Path, scores: dict[int, float]) -> None:
    """The second pass loses 3 points more, which makes 6; nothing goes to what it lost alone."""
    scores |= {6: 0.90, 4: 0.87, 3: 0.84, 2: 0.84}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9, k=2), FAST, passes=2, max_k=2))
    assert [entry["accepted"] for entry in summary.counts["passes"]] == [True, False]
    assert summary.counts["passes"][1]["drop"] == pytest.approx(6.0)
    assert len(blocks(bench.model)) == 4


def test_it_stops_where_no_blocks_are_alike(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {count: 0.9 for count in range(7)}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=9))
    assert summary.counts["stopped"] == "no blocks are alike"
    assert 1 <= len(summary.counts["passes"]) < 9


def test_equal_to_the_flat_chain_and_to_the_naive_one(tmp_path: Path) -> None:
    """Its passes are trained once, whoever comes by them."""
    model = plant(tiny("resnet", depth=10), {2, 7})
    recover = Recover(epochs=1, lr=1e-3, batch_size=8, freeze="part")
    stage = Iterate(Similarity(99.9), recover, passes=2, max_drop=100.0)
    flat, ours = tiny_bench(tmp_path, model), tiny_bench(tmp_path, model)
    naive = tiny_bench(tmp_path, model, naive=True)
    passes = do(ours, stage, Wanda(0.5), recover)[0].counts["passes"]
    chain = [s for _ in passes for s in (Similarity(99.9), recover)]
    summaries = do(flat, *chain, Wanda(0.5), recover)
    do(naive, stage, Wanda(0.5), recover)
    assert ours.lineage == flat.lineage == naive.lineage
    assert same_tensors(ours.model, flat.model) and same_tensors(ours.model, naive.model)
    assert sum(summary.counts.get("epochs_run", 0) for summary in summaries) == 0


def test_an_encoder_decoder_goes_all_the_way(tmp_path: Path, scores: dict[int, float]) -> None:
    """Its decoder is shown the targets, by similarity pruning and by Wanda."""
    scores |= {12: 0.9, 7: 0.9}
    bench = tiny_bench(tmp_path, plant(tiny("t5"), {2, 3, 7, 8, 10}))
    prune = Similarity(99.95)
    summaries = do(bench, Iterate(prune, FAST, metric="rouge_l"), Wanda(0.5), FAST)
    assert summaries[0].counts["kept_per_stack"] == [4, 3]
    zeros = sum(int((layer.weight == 0).sum()) for layer in linears(bench.model).values())
    assert zeros == summaries[1].counts["zeros"] > 0


def test_progress_says_which_pass(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {6: 0.90, 3: 0.87}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    told = list(Iterate(Similarity(99.9), FAST).on(bench))
    assert [sorted(step) for step in told] == [
        ["epoch", "train_loss"],
        ["accuracy", "blocks", "k"],
    ]
    assert told[-1] == {"accuracy": 0.87, "k": 1.0, "blocks": 3.0}


def test_the_base_is_left_alone(tmp_path: Path) -> None:
    model = plant(tiny("bert"), {2, 3, 5})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    do(tiny_bench(tmp_path, model), Iterate(Similarity(99.9), FAST, max_drop=100.0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("field", "value"), [("passes", 0), ("max_k", 0), ("max_drop", -1.0), ("metric", "perplexity")]
)
def test_fields_say_what_is_allowed(field: str, value: object) -> None:
    with pytest.raises(FieldError, match=field):
        Iterate(**{field: value})
