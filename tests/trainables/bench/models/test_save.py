"""What is saved loads in a fresh process and says the same; uneven layers in two forms."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.families import DECODERS, FAMILIES, batch_of, batches, build, kind
from tests.support.toys import bytes_tokenizer
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models import verify as verify_module
from trainables.bench.models.batches import ready
from trainables.bench.models.nonuniform import load_exact, padded, save_exact
from trainables.bench.models.save import misfits, save
from trainables.bench.models.surgery import remove_blocks
from trainables.bench.models.verify import logits, prove
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.spec import Task
from trainables.neurons.ffn import cut, ffns

WITH_FFN = [name for name in FAMILIES if name != "resnet"]


def uneven(name: str) -> PreTrainedModel:
    """A model that loses a different number of neurons in every block."""
    model = fork(kind(name) if name in ("phi3", "opt") else build(name))
    cut(model, [torch.arange(one.width) >= one.width - 4 * i for i, one in enumerate(ffns(model))])
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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("resnet", torch.float16),
        ("vit", torch.bfloat16),
        pytest.param("resnet", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("vit", torch.float16, marks=pytest.mark.slow),
    ],
)
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
    monkeypatch.setattr(verify_module, "run_fresh", lambda arguments: found)
    with pytest.raises(PlanError, match=f"its logits differ by {difference}"):
        prove("", tmp_path, build("llama"), batches("llama")[0])


def test_a_folder_that_does_not_load(tmp_path: Path) -> None:
    saved = save(build("llama"), None, "language-modelling", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PlanError, match="does not load in a fresh process: "):
        prove(saved.load, tmp_path, build("llama"), batches("llama")[0])


FORMS = """
import json, sys
import torch
from pathlib import Path
from safetensors.torch import load_file
from trainables.bench.metrics.cost import count_parameters
found = {}
for place in sorted(Path(sys.argv[1]).iterdir()):
    for name, load in json.loads((place / "forms.json").read_text()).items():
        exec(load)
        with torch.no_grad():
            given = load_file(place / "batch.safetensors")
            wanted = given.pop("wanted")
            gap = (model(**given).logits - wanted).abs().max() / wanted.abs().max()
        found[f"{place.name} {name}".strip()] = [float(gap), count_parameters(model)]
print(json.dumps(found))
"""


def test_every_form_of_every_family_loads_in_a_fresh_process(tmp_path: Path) -> None:
    models = {name: uneven(name) for name in (*WITH_FFN, "bart", "phi3", "opt")}
    script = tmp_path / "check.py"
    script.write_text(FORMS)
    for name, model in models.items():
        place = tmp_path / "models" / name
        place.mkdir(parents=True)
        tasks: dict[str, Task] = {"t5": "generation", "bart": "generation"}
        tasks["vit"] = "image-classification"
        decoder = name in DECODERS or name in ("phi3", "opt")
        task = "language-modelling" if decoder else tasks.get(name, "classification")
        saved = save(model, None, task, place)
        batch = ready(model, batches(name)[0])
        wanted = logits(model, batch)
        save_file({**batch, "wanted": wanted.contiguous()}, place / "batch.safetensors")
        loads = {form: load.format(folder=repr(str(place))) for form, load in saved.forms.items()}
        (place / "forms.json").write_text(json.dumps(loads))
    found = verify_module.run_fresh([str(script), str(tmp_path / "models")])
    for name, model in models.items():
        padded_gap, padded_count = found[name]
        assert padded_gap < 1e-5 and padded_count > count_parameters(model)
        assert found[f"{name} exact"] == [0.0, count_parameters(model)]


def test_the_exact_form_alone(tmp_path: Path) -> None:
    model, batch = uneven("phi3"), batch_of(kind("phi3"))
    saved = save(model, None, "language-modelling", tmp_path, "exact")
    assert not saved.plain and list(saved.forms) == [""] and "needs Rayduce" in saved.note
    assert not (tmp_path / "exact").exists()
    assert torch.equal(logits(load_exact(tmp_path), batch), logits(model, batch))
    even = build("llama")
    (tmp_path / "even").mkdir()
    assert save(even, None, "language-modelling", tmp_path / "even", "exact").plain


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
