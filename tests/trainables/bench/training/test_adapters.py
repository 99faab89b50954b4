"""Adapters of low rank: what was trained is what comes out, and the shared weights stay."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.benches import do, tiny_bench
from tests.support.families import FAMILIES, build
from tests.support.planted import tiny
from tests.support.same import same_tensors
from trainables.bench.models.structure import blocks, linears
from trainables.bench.training.adapters import adapted
from trainables.bench.training.freeze import unfreeze
from trainables.codebook import TuneCodebook
from trainables.core.errors import FieldError, PlanError
from trainables.core.fork import fork, put
from trainables.core.spec import TrainSpec
from trainables.magnitude import GradualMagnitude
from trainables.recover import Recover
from trainables.wanda import Wanda

LOW = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "lora_rank": 4}


def inputs(model: Any) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, model.config.vocab_size, (2, 7))}


def learn(model: nn.Module) -> None:
    """As training would, anywhere."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(torch.randn_like(parameter) / 10)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("pruned", [False, True])
def test_merged_says_what_the_adapters_said(name: str, pruned: bool) -> None:
    base = FAMILIES[name]().eval()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    model, given = fork(base), inputs(base)
    if name == "t5":
        given["decoder_input_ids"] = given["input_ids"]
    layers = linears(model)
    if pruned:
        for layer in layers.values():
            put(layer, "weight", layer.weight.detach() * (torch.rand_like(layer.weight) > 0.5))
    zero = {key: layer.weight == 0 for key, layer in layers.items()}
    untrained = model(**given)[0]
    with adapted(model, TrainSpec(lora_rank=3)):
        assert torch.allclose(model(**given)[0], untrained, atol=1e-5)  # it begins as nothing
        learning = [key for key, value in model.named_parameters() if value.requires_grad]
        assert learning and all(".lora_" in key for key in learning)
        learn(model)
        said = model(**given)[0]
    assert not torch.allclose(said, untrained, atol=1e-3)
    assert torch.allclose(model(**given)[0], said, atol=1e-5)
    assert set(model.state_dict()) == set(before)
    assert all(bool((layers[key].weight[mask] == 0).all()) for key, mask in zero.items())
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())


def test_the_base_stays_in_its_dtype_and_is_not_copied() -> None:
    base = FAMILIES["llama"]().to(torch.bfloat16)
    model = fork(base)
    with adapted(model, TrainSpec(lora_rank=2)):
        for key, value in model.named_parameters():
            assert value.dtype == (torch.float32 if ".lora_" in key else torch.bfloat16)
        learn(model)
    shared = {value.data_ptr() for value in base.parameters()}
    apart = {key for key, value in model.named_parameters() if value.data_ptr() not in shared}
    assert apart == {f"{key}.weight" for key in linears(model)}
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}


def test_after_a_failure_the_modules_are_the_models_own_again() -> None:
    model = FAMILIES["llama"]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="no"), adapted(model, TrainSpec(lora_rank=2)):
        learn(model)
        raise RuntimeError("no")
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert set(after) == set(before)


@pytest.mark.parametrize("name", ["convnext", "vit"])
def test_adapters_learn_inside_modules_with_parameters_of_their_own(name: str) -> None:
    """Such as the scales of a residual."""
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with adapted(model, TrainSpec(lora_rank=2)):
        unfreeze(model)
        learning = [key for key, value in model.named_parameters() if value.requires_grad]
        assert learning and all(".lora_" in key for key in learning)
        learn(model)
    after = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {
        f"{key}.weight" for key, layer in linears(model).items() if plain(model, layer)
    }


def plain(model: Any, layer: nn.Module) -> bool:
    """Whether a layer inside the blocks takes an adapter."""
    inside = [module for block in blocks(model) for module in block.modules()]
    return type(layer) is nn.Linear and any(layer is one for one in inside)


def test_a_model_without_linear_layers_has_no_adapters() -> None:
    model = FAMILIES["resnet"]()
    wrong = pytest.raises(PlanError, match="lora_rank: no plain linear layer")
    with wrong, adapted(model, TrainSpec(lora_rank=2)):
        pass


# -- as a stage ----------------------------------------------------------------------------------


def test_a_pruned_model_learns_with_its_zeros_held_and_is_shared(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    first, second = tiny_bench(tmp_path, model), tiny_bench(tmp_path, model)
    naive = tiny_bench(tmp_path, model, naive=True)
    runs = [do(one, Wanda(0.5), Recover(**LOW, accumulate=2)) for one in (first, second, naive)]
    assert [run[1].counts["epochs_run"] for run in runs] == [2, 0, 2]
    assert same_tensors(first.model, second.model) and same_tensors(first.model, naive.model)
    taught = runs[0][1].counts["trained_parameters"]
    assert 0 < taught < sum(value.numel() for value in first.model.parameters()) / 4
    pruned = tiny_bench(tmp_path / "other", model)
    do(pruned, Wanda(0.5))
    there, here = linears(pruned.model), linears(first.model)
    assert all(
        bool((here[key].weight[layer.weight == 0] == 0).all()) for key, layer in there.items()
    )
    assert not all(torch.equal(here[key].weight, layer.weight) for key, layer in there.items())


def test_only_blocks_beside_cuts_take_adapters(tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    with adapted(model, TrainSpec(lora_rank=2), trained=[1]):
        taken = {key for key, _ in model.named_parameters() if ".lora_" in key}
    inside = {
        key for key, layer in linears(model).items() if layer in list(blocks(model)[1].modules())
    }
    assert {key.split(".lora_")[0] for key in taken} == inside


def test_stages_that_train_weights_themselves_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="lora_rank = 0"):
        GradualMagnitude(recover=Recover(lora_rank=2))
    with pytest.raises(FieldError, match="no max_steps"):
        GradualMagnitude(recover=Recover(max_steps=2))
    assert not TuneCodebook().training.lora_rank
