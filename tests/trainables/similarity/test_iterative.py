"""Passes of pruning and retraining: accepted, undone, shared, and the same as the naive way."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.benches import do, tiny_bench
from tests.support.planted import plant, tiny
from tests.support.same import same_tensors
from tests.support.toys import bytes_tokenizer
from trainables.bench import bench as bench_module
from trainables.bench.bench import Bench
from trainables.bench.metrics.evaluate import Measure
from trainables.bench.metrics.predictions import finite
from trainables.bench.models.structure import blocks, linears
from trainables.core.errors import FieldError
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec
from trainables.recover import Recover
from trainables.similarity.iterative import Iterate
from trainables.similarity.method import Similarity
from trainables.trial import open_bench
from trainables.wanda import Wanda

FAST = Recover(epochs=1, lr=1e-3, batch_size=8)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Accuracy by number of blocks, instead of what the tiny model says."""
    table: dict[int, float] = {}

    def measured(bench: Any, names: Any, role: str, *_: Any) -> dict[str, Measure]:
        found = {name: table[len(blocks(bench.model))] for name in names}
        return {name: Measure(finite(name, value)) for name, value in found.items()}

    monkeypatch.setattr(bench_module, "measure_items", measured)
    return table


def test_an_accepted_pass_stays(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {6: 0.90, 3: 0.87}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=1))
    assert len(blocks(bench.model)) == summary.counts["blocks"] == 3
    (entry,) = summary.details["passes"]
    assert entry["accepted"] and entry["drop"] == pytest.approx(3.0)
    assert summary.details["stopped"] == "all passes done"


def test_it_falls_back_to_the_next_k(tmp_path: Path, scores: dict[int, float]) -> None:
    """All of the alike blocks are too many, half of them are not."""
    scores |= {6: 0.90, 3: 0.80, 4: 0.88}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=1))
    assert [(e["k"], e["blocks"], e["accepted"]) for e in summary.details["passes"]] == [
        (1, 3, False),
        (2, 4, True),
    ]
    assert len(blocks(bench.model)) == 4
    assert len(summary.effects) == 2


def test_it_gives_up_after_the_last_k(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {6: 0.90, 3: 0.10, 4: 0.10}
    model = plant(tiny("bert"), {2, 3, 5})
    bench = tiny_bench(tmp_path, model)
    before = bench.subject.lineage
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=2))
    assert summary.effects == () and bench.subject.lineage == before
    assert "k = 3" in summary.details["stopped"] and len(summary.details["passes"]) == 3
    assert same_tensors(bench.model, model)


def test_the_drop_is_against_the_original(tmp_path: Path, scores: dict[int, float]) -> None:
    """The second pass loses 3 points more, which makes 6; nothing goes to what it lost alone."""
    scores |= {6: 0.90, 4: 0.87, 3: 0.84, 2: 0.84}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9, k=2), FAST, passes=2, max_k=2))
    assert [entry["accepted"] for entry in summary.details["passes"]] == [True, False]
    assert summary.details["passes"][1]["drop"] == pytest.approx(6.0)
    assert len(blocks(bench.model)) == 4


def test_it_stops_where_no_blocks_are_alike(tmp_path: Path, scores: dict[int, float]) -> None:
    scores |= {count: 0.9 for count in range(7)}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, passes=9))
    assert summary.details["stopped"] == "no blocks are alike"
    assert 1 <= len(summary.details["passes"]) < 9


def test_equal_to_the_flat_chain_and_to_the_naive_one(tmp_path: Path) -> None:
    """Its passes are trained once, whoever comes by them."""
    model = plant(tiny("resnet", depth=10), {2, 7})
    recover = Recover(epochs=1, lr=1e-3, batch_size=8, freeze="part")
    stage = Iterate(Similarity(99.9), recover, passes=2, max_drop=100.0)
    flat, ours = tiny_bench(tmp_path, model), tiny_bench(tmp_path, model)
    naive = tiny_bench(tmp_path, model, naive=True)
    passes = do(ours, stage, Wanda(0.5), recover)[0].details["passes"]
    chain = [s for _ in passes for s in (Similarity(99.9), recover)]
    summaries = do(flat, *chain, Wanda(0.5), recover)
    do(naive, stage, Wanda(0.5), recover)
    assert len({one.subject.lineage for one in (ours, flat, naive)}) == 1
    assert same_tensors(ours.model, flat.model) and same_tensors(ours.model, naive.model)
    assert sum(summary.counts.get("epochs_run", 0) for summary in summaries) == 0


def test_a_pass_after_which_nothing_can_be_measured_is_undone(
    tmp_path: Path, scores: dict[int, float]
) -> None:
    scores |= {6: 2.0, 3: math.inf, 4: 2.01}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, metric="loss"))
    first, second = summary.details["passes"]
    assert not first["accepted"] and "loss is inf" in first["broken"]
    assert second["accepted"] and len(blocks(bench.model)) == 4


def test_less_is_better_is_judged_in_percent_of_the_original(
    tmp_path: Path, scores: dict[int, float]
) -> None:
    scores |= {6: 2.0, 3: 2.3, 4: 2.18}
    bench = tiny_bench(tmp_path, plant(tiny("bert"), {2, 3, 5}))
    (summary,) = do(bench, Iterate(Similarity(99.9), FAST, max_drop=10.0, metric="loss"))
    drops = [(entry["drop"], entry["accepted"]) for entry in summary.details["passes"]]
    assert drops == [(pytest.approx(15.0), False), (pytest.approx(9.0), True)]


def test_a_metric_of_another_task_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for stage in (Iterate(metric="perplexity"), Iterate(recover=Recover(watch="rouge_l"))):
        bench = tiny_bench(tmp_path, tiny("bert"))
        with pytest.raises(FieldError, match=r"(metric|watch) = .*accuracy.*for classification"):
            next(stage.on(bench))
        assert not list(tmp_path.glob("metrics/*"))


def test_a_language_model_is_judged_by_its_perplexity(tmp_path: Path) -> None:
    bench = written(tmp_path)
    before = bench.measure(["perplexity"]).values["perplexity"]
    (summary,) = do(bench, Iterate(Similarity(99.0), FAST, max_drop=50.0))
    assert summary.details["metric"] == "perplexity"
    (entry,) = summary.details["passes"]
    after = bench.measure(["perplexity"]).values["perplexity"]
    assert entry["drop"] == pytest.approx(100 * (after - before) / before)
    assert len(blocks(bench.model)) == entry["blocks"] < 6


def written(folder: Path) -> Bench:
    """A bench with a decoder on running text."""
    tokenizer = bytes_tokenizer()
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=6, **small)
    model = plant(LlamaForCausalLM(config), {2, 3, 4}, loud=4.0)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = [f"{i} times {i % 7} makes {i * (i % 7)} in all" for i in range(300)]
    (folder / "text.txt").write_text("\n".join(lines))
    items = ItemCounts(calibration=8, train=16, search=8, held_out=8)
    data = DataSpec(
        dataset=str(folder / "text.txt"), task="language-modelling", max_length=32, items=items
    )
    spec = ModelSpec(id=str(folder / "model"))
    place = str(folder / "cache")
    return open_bench(BenchSpec(model=spec, data=data, objectives=("perplexity",), cache=place))


def test_an_encoder_decoder_goes_all_the_way(tmp_path: Path, scores: dict[int, float]) -> None:
    """Its decoder is shown the targets, by similarity pruning and by Wanda."""
    scores |= {12: 0.9, 7: 0.9}
    bench = tiny_bench(tmp_path, plant(tiny("t5"), {2, 3, 7, 8, 10}))
    prune = Similarity(99.95)
    summaries = do(bench, Iterate(prune, FAST, metric="rouge_l"), Wanda(0.5), FAST)
    assert summaries[0].details["passes"][-1]["kept_per_stack"] == [4, 3]
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
    ("field", "value"), [("passes", 0), ("max_k", 0), ("max_drop", -1.0), ("metric", "parameters")]
)
def test_fields_say_what_is_allowed(field: str, value: object) -> None:
    with pytest.raises(FieldError, match=field):
        Iterate(**{field: value})
