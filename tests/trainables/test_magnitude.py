"""Magnitude pruning: torch.nn.utils.prune's masks, zeros that training holds, the schedule."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.support.benches import do, tiny_bench
from tests.support.families import FAMILIES, MORE, build
from tests.support.planted import tiny
from tests.support.same import same_tensors
from trainables.bench.models.structure import linears, rows
from trainables.core.errors import FieldError
from trainables.core.fork import fork, put
from trainables.magnitude import GradualMagnitude, Magnitude, cubic, smallest, smallest_rows
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.stage import Stage

ALL = [*FAMILIES, *MORE]
FAST = {"epochs": 2, "lr": 1e-2, "batch_size": 8}
SHARES = [0.25, 0.9]


def pruned(model: PreTrainedModel, method: Magnitude) -> dict[str, Tensor]:
    """Which weights are kept, as torch's masks have it."""
    own = fork(model)
    method.apply(own, {})
    return {
        name: (layer.weight != 0).to(layer.weight.dtype) for name, layer in linears(own).items()
    }


def torchs(model: PreTrainedModel, share: float, scope: str, granularity: str) -> dict[str, Tensor]:
    """The masks that torch.nn.utils.prune makes of the same layers."""
    layers = {name: _bare(layer) for name, layer in linears(model).items()}
    if scope == "global":
        pairs = [(layer, "weight") for layer in layers.values()]
        prune.global_unstructured(pairs, prune.L1Unstructured, amount=share)
    for name, layer in layers.items():
        if granularity == "rows":
            dim = 1 if isinstance(linears(model)[name], Conv1D) else 0
            prune.ln_structured(layer, "weight", amount=share, n=2, dim=dim)
        elif scope == "tensor":
            prune.l1_unstructured(layer, "weight", amount=share)
    return {name: layer.weight_mask for name, layer in layers.items()}


def _bare(layer: nn.Module) -> nn.Module:
    found = nn.Module()
    found.weight = nn.Parameter(layer.weight.detach().clone())
    return found


def coarse(model: PreTrainedModel) -> PreTrainedModel:
    """Weights of few values, none of them zero: ties everywhere."""
    for layer in linears(model).values():
        steps = (layer.weight.detach() * 8).round() / 8
        put(layer, "weight", torch.where(steps == 0, 0.125, steps))
    return model


KINDS = [("tensor", "unstructured"), ("global", "unstructured"), ("tensor", "rows")]


@pytest.mark.parametrize(("scope", "granularity"), KINDS)
@pytest.mark.parametrize("name", ALL)
def test_masks_are_torchs_ties_included(name: str, scope: Any, granularity: Any) -> None:
    for model in (build(name), coarse(build(name)), build(name).to(torch.bfloat16)):
        for share in SHARES:
            ours = pruned(model, Magnitude(share, scope, granularity))
            theirs = torchs(model, share, scope, granularity)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[layer], theirs[layer]) for layer in ours), (share, name)


def test_by_hand() -> None:
    weight = torch.tensor([[3.0, -1.0], [0.5, -4.0]])
    assert smallest(weight, 0.5).tolist() == [[False, True], [True, False]]
    assert not smallest(weight, 0.0).any()
    norms = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 8.0])}
    within = smallest_rows(norms, None, 0.5)
    assert [m.tolist() for m in within.values()] == [[False, True], [True, False]]
    # of four inputs each norm counts half: 1.5 and .5 against 2 and 8
    across = smallest_rows(norms, {"a": 4, "b": 1}, 0.5)
    assert [m.tolist() for m in across.values()] == [[True, True], [False, False]]


def test_a_pattern_keeps_the_largest_n_of_every_m() -> None:
    model = build("llama")
    kept = pruned(model, Magnitude(pattern=(1, 4)))
    for name, layer in linears(model).items():
        groups = rows(layer).detach().abs().view(-1, 4)
        best = torch.zeros_like(groups).scatter_(1, groups.argmax(1, keepdim=True), 1.0)
        assert torch.equal(kept[name].view(-1, 4), best)


def test_what_is_zero_counts_first_and_biases_stay() -> None:
    model = build("bert")
    for layer in linears(model).values():
        put(layer, "bias", torch.ones_like(layer.bias))
    own = fork(model)
    Magnitude(0.5).apply(own, {})
    zeros = {name: layer.weight == 0 for name, layer in linears(own).items()}
    summary = Magnitude(0.25).apply(own, {})
    assert all(torch.equal(layer.weight == 0, zeros[n]) for n, layer in linears(own).items())
    again = Magnitude(0.5, granularity="rows").apply(own, {})
    assert again.counts["zero_rows"] > 0 == summary.counts["zero_rows"]
    assert all((layer.bias == 1).all() for layer in linears(own).values())


def test_the_rule_in_words() -> None:
    assert Magnitude(pattern=(2, 4)).rule == "magnitude, 2 of every 4 kept"
    assert Magnitude(0.3, "global").rule == "magnitude 30 % of all weights"
    assert Magnitude(0.3, granularity="rows").rule == "magnitude 30 % of each matrix's rows"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pattern": (2, 4), "sparsity": 0.3}, "0.5, what pattern 2:4 gives"),
        ({"pattern": (2, 4), "scope": "global"}, 'scope "tensor"'),
        ({"scope": "layer"}, "tensor or global"),
    ],
)
def test_fields_say_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        Magnitude(**fields)


@pytest.mark.parametrize(
    "method",
    [Magnitude(0.5, "global"), Magnitude(0.3, granularity="rows"), Magnitude(pattern=(2, 4))],
)
def test_retraining_holds_the_mask(method: Magnitude, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=2))
    do(bench, Omission(skip=(0,)), method)
    before = {name: layer.weight.clone() for name, layer in linears(bench.model).items()}
    do(bench, Recover(**FAST, weight_decay=0.1))
    for name, layer in linears(bench.model).items():
        assert torch.equal(layer.weight == 0, before[name] == 0)
        assert not torch.equal(layer.weight, before[name])


# -- little by little ------------------------------------------------------------------------------


def test_the_schedule_is_cubic() -> None:
    """s_f + (s_i - s_f) (1 - t / T)^3 from s_i = 0 on."""
    assert [cubic(step, 4, 0.8) for step in range(6)] == pytest.approx(
        [0, 0.8 * (1 - 27 / 64), 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8, 0.8]
    )
    assert cubic(0, 0, 0.5) == 0.5


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("name", ["bert", "t5", "resnet"])
def test_the_share_grows_step_by_step(
    name: str, scope: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, model = tiny_bench(tmp_path, tiny(name, depth=2)), None
    seen: list[float] = []
    masks = Magnitude.masks
    monkeypatch.setattr(
        Magnitude, "masks", lambda self, layers: seen.append(self.sparsity) or masks(self, layers)
    )
    stage = GradualMagnitude(Magnitude(0.6, scope), Recover(**FAST), every=1, until=0.5)
    (summary,) = do(bench, stage)
    model = bench.model
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 0.6 and len(seen) == 3
    weights = [layer.weight for layer in linears(model).values()]
    total = sum(weight.numel() for weight in weights)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == summary.counts["zeros"] == pytest.approx(0.6 * total, abs=len(weights))
    assert summary.label.endswith("little by little")
    assert not any(
        torch.equal(v, bench.base.model.state_dict()[k])
        for k, v in model.state_dict().items()
        if k.endswith("weight") and v.dim() > 1
    )


def test_pruned_once_then_shared_and_equal_to_naive(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    stage = GradualMagnitude(Magnitude(0.5), Recover(**FAST), every=2)
    benches = [tiny_bench(tmp_path, model, naive=naive) for naive in (False, False, True)]
    ran = [do(bench, stage)[0] for bench in benches]
    assert [one.counts["epochs_run"] for one in ran] == [2, 0, 2]
    assert all(same_tensors(benches[0].model, bench.model) for bench in benches[1:])
    assert len({bench.subject.lineage for bench in benches}) == 1
    other = tiny_bench(tmp_path, model)
    do(other, GradualMagnitude(Magnitude(0.5), Recover(**FAST), every=1))
    assert other.subject.lineage != benches[0].subject.lineage


def test_an_interrupted_pruning_goes_on(tmp_path: Path) -> None:
    model = tiny("bert", depth=1)
    recover = Recover(epochs=4, lr=1e-2, batch_size=8)
    stage = GradualMagnitude(Magnitude(0.7, "global"), recover, every=5, until=1.0)
    whole, cut = tiny_bench(tmp_path / "whole", model), tiny_bench(tmp_path / "cut", model)
    do(whole, stage)
    running = stage.on(cut)
    told = [next(running), next(running)]
    running.close()
    again = tiny_bench(tmp_path / "cut", model)
    assert list(stage.on(again))[:2] == told
    assert same_tensors(again.model, whole.model)


def test_a_gradual_one_is_plain_data_and_refuses_what_could_end_it_early() -> None:
    stage = GradualMagnitude(Magnitude(0.7), Recover(epochs=4), every=5)
    assert Stage.from_dict(json.loads(json.dumps(stage.to_dict()))) == stage
    assert stage.settings()["sparsity"] == 0.7 and stage.settings()["epochs"] == 4
    for fields in ({"recover": Recover(patience=1)}, {"every": 0}, {"until": 0.0}):
        with pytest.raises(FieldError, match=next(iter(fields))):
            GradualMagnitude(**fields)  # type: ignore[arg-type]
    with pytest.raises(FieldError, match="pattern"):
        GradualMagnitude(Magnitude(pattern=(2, 4)))
