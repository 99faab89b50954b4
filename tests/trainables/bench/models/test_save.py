"""What is saved loads in a fresh process and says the same; uneven layers in two forms."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.families import FAMILIES, batches, build
from tests.support.toys import bytes_tokenizer
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models import verify as verify_module
from trainables.bench.models.nonuniform import load_exact, padded, put_rows, save_exact
from trainables.bench.models.save import misfits, save
from trainables.bench.models.structure import blocks, family, reach, rows
from trainables.bench.models.surgery import remove_blocks
from trainables.bench.models.verify import logits, prove
from trainables.core.errors import PlanError
from trainables.core.fork import fork, put

WITH_FFN = [name for name in FAMILIES if name != "resnet"]


def uneven(name: str) -> PreTrainedModel:
    """A model that loses a different number of neurons in every block."""
    model = fork(build(name))
    row = family(model)
    for index, block in enumerate(blocks(model)):
        contract = reach(block, row.contract)
        keep = slice(0, rows(contract).shape[1] - 4 * index)
        for path in row.expand:
            layer = reach(block, path)
            put_rows(layer, rows(layer)[keep].clone())
            if layer.bias is not None:
                put(layer, "bias", layer.bias[keep].clone())
        put_rows(contract, rows(contract)[:, keep].clone())
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_fits_its_config_until_widths_differ(name: str) -> None:
    model = build(name)
    assert misfits(model) == []
    if name != "resnet":
        assert misfits(uneven(name)) != []
        remove_blocks(model, [1])
        assert misfits(model) == []


@pytest.mark.parametrize("name", WITH_FFN)
def test_padding_changes_nothing_and_fits(name: str) -> None:
    model, batch = uneven(name), batches(name)[0]
    wide = padded(model)
    assert misfits(wide) == []
    assert count_parameters(wide) > count_parameters(model)
    torch.testing.assert_close(logits(wide, batch), logits(model, batch))


@pytest.mark.parametrize("name", WITH_FFN)
def test_the_exact_form_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model, batch = uneven(name), batches(name)[0]
    save_exact(model, tmp_path)
    again = load_exact(tmp_path)
    assert torch.equal(logits(again, batch), logits(model, batch))
    assert count_parameters(again) == count_parameters(model)


def test_an_exact_form_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no exact\.json"):
        load_exact(tmp_path)


def test_saved_model_speaks_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    model = build("llama")
    remove_blocks(model, [2])
    saved = save(model, bytes_tokenizer(), "language-modelling", tmp_path)
    assert (saved.plain, saved.exact, saved.note) == (True, None, "")
    assert saved.load.startswith("from transformers import AutoModelForCausalLM\n")
    assert (tmp_path / "tokenizer.json").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 3
    proof = prove(saved.load, tmp_path, model, batches("llama")[0])
    assert proof.equal and proof.difference == 0 and str(proof) == "identical logits"


def test_a_decoder_that_generates_is_saved_as_what_it_is(tmp_path: Path) -> None:
    for name, head in (("t5", "AutoModelForSeq2SeqLM"), ("gpt2", "AutoModelForCausalLM")):
        (tmp_path / name).mkdir()
        saved = save(build(name), None, "generation", tmp_path / name)
        assert saved.load.startswith(f"from transformers import {head}\n")
    assert prove(saved.load, tmp_path / "gpt2", build("gpt2"), batches("gpt2")[0]).equal


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_are_cast_for_models_in_half_precision(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = build(name).to(dtype)
    saved = save(model, None, "image-classification", tmp_path)
    assert prove(saved.load, tmp_path, model, batches(name)[0]).equal


@pytest.mark.parametrize("difference", [3.0, float("nan"), None])
def test_another_model_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float | None
) -> None:
    found = {"shape": difference is not None, "equal": False, "difference": difference}
    monkeypatch.setattr(verify_module, "_run", lambda arguments: found)
    with pytest.raises(PlanError, match=f"its logits differ by {difference}"):
        prove("", tmp_path, build("llama"), batches("llama")[0])


def test_a_folder_that_does_not_load(tmp_path: Path) -> None:
    saved = save(build("llama"), None, "language-modelling", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PlanError, match="does not load in a fresh process: "):
        prove(saved.load, tmp_path, build("llama"), batches("llama")[0])


def test_uneven_models_are_saved_in_two_forms(tmp_path: Path) -> None:
    model, batch = uneven("gpt2"), batches("gpt2")[0]
    saved = save(model, None, "language-modelling", tmp_path)
    assert saved.plain and saved.exact is not None and "padded" in saved.note
    assert prove(saved.exact, tmp_path, model, batch).equal


class Wrapped(nn.Module):
    """No transformers architecture."""

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self.inner = inner

    def save_to(self, folder: Path) -> str:
        self.inner.save_pretrained(folder / "inner")
        return "from mine import load\nmodel = load({folder})"


def test_models_that_save_themselves(tmp_path: Path) -> None:
    saved = save(Wrapped(build("llama")), None, "language-modelling", tmp_path)
    assert (saved.plain, saved.load) == (False, "from mine import load\nmodel = load({folder})")
    assert (tmp_path / "inner" / "config.json").exists()
    with pytest.raises(PlanError, match="Linear is no transformers model"):
        save(nn.Linear(2, 2), None, "language-modelling", tmp_path)
