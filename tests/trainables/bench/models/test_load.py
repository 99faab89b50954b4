"""The untouched model of a study: new from a config, trained first where the study asks."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    T5Config,
    dynamic_module_utils,
)

from tests.support.families import COMMON, batch_of, build
from tests.support.same import same_tensors
from tests.support.toys import word_tokenizer
from trainables.bench.bench import Bench
from trainables.bench.models.check import check_model
from trainables.bench.models.load import fresh, load_config, load_model, load_processor
from trainables.bench.models.save import save
from trainables.bench.models.surgery import remove_blocks
from trainables.bench.models.verify import prove
from trainables.bench.training.loop import Training
from trainables.core.errors import ModelError
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec, TrainSpec
from trainables.trial import open_bench

CONFIG = {"num_channels": 1, "embedding_size": 8, "hidden_sizes": [8], "depths": [2]}
TRAINING = TrainSpec(epochs=2, lr=1e-2, batch_size=32)


@pytest.fixture(autouse=True)
def _assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDUCE_ASSETS", str(tmp_path / "assets"))


def opened(folder: Path, train: TrainSpec | None, *, naive: bool = False) -> Bench:
    spec = BenchSpec(
        model=ModelSpec(id="new:resnet", config=CONFIG, train=train),
        data=DataSpec(
            dataset="asset:digits",
            task="image-classification",
            batch_size=32,
            items=ItemCounts(calibration=32, train=128, search=64, held_out=64),
        ),
        objectives=("accuracy",),
        cache=str(folder),
        naive=naive,
    )
    return open_bench(spec)


def test_a_new_model_is_the_same_for_the_same_fields(tmp_path: Path) -> None:
    spec = ModelSpec(id="new:resnet", config=CONFIG)
    folder = fresh(spec)
    assert fresh(spec) == folder
    assert fresh(ModelSpec(id="new:resnet", config=CONFIG | {"depths": [3]})) != folder
    one, other = (load_model(folder, spec, "image-classification", ("a", "b")) for _ in "ab")
    assert same_tensors(one, other) and one.config.depths == [2]
    assert one.classifier[-1].weight.shape[0] == 2


@pytest.mark.parametrize("spec", [ModelSpec(id="new:reznet"), ModelSpec(id="new:resnet-50")])
def test_an_unknown_type_is_told(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match=spec.id):
        fresh(spec)


@pytest.mark.parametrize("part", [{"config": CONFIG}, {"tokenizer": "asset:minilm-l6"}])
def test_only_a_new_model_has_parts(part: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="new:t5"):
        ModelSpec(id="asset:minilm-l6", **part)


def test_the_base_is_trained_once_and_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    epoch = Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda self: ran.append(1) or epoch(self))
    plain = opened(tmp_path / "cache", None)
    first, second = (opened(tmp_path / "cache", TRAINING) for _ in range(2))
    assert len(ran) == 2, "two epochs, by the first that came"
    naive = opened(tmp_path / "naive", TRAINING, naive=True)
    bases = [bench.base.model for bench in (first, second, naive)]
    assert same_tensors(bases[0], bases[1]) and same_tensors(bases[0], bases[2])
    lineages = {bench.base.lineage for bench in (first, second, naive)}
    assert len(lineages) == 1 and plain.base.lineage not in lineages
    assert not same_tensors(bases[0], plain.base.model) and not bases[0].training
    assert first.base.history == () and first.model is not bases[0]
    assert same_tensors(first.model, bases[0])


def test_who_measures_twice_measured_it_itself(tmp_path: Path) -> None:
    bench = opened(tmp_path / "cache", None)
    one = bench.fork("study/1")
    assert one.measure(("accuracy",)).same_as is None
    assert one.measure(("accuracy",)).same_as is None, "as when a stage asked on the way"
    assert bench.fork("study/2").measure(("accuracy",)).same_as == "study/1"


# -- what cannot be loaded -----------------------------------------------------------------------


def bert(folder: Path) -> Path:
    BertForSequenceClassification(BertConfig(**COMMON)).save_pretrained(folder)
    return folder


def read(folder: Path, **options: object) -> object:
    return load_processor(folder, ModelSpec(id=str(folder), **options), "classification")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer's files.*tokenizer\.json"):
        read(bert(tmp_path))


def test_a_tokenizer_of_another_library_is_told(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    T5Config(vocab_size=50).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(b"\n\x0b\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(ModelError, match=r"only there as spiece\.model.*sentencepiece"):
        read(folder)


def test_a_tokenizer_that_is_broken_is_told_in_one_line(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer cannot be read") as error:
        read(folder)
    assert "\n" not in str(error.value)


CONFIGURATION = """from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODELING = """from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model type whose code lies beside it."""
    modules = tmp_path / "modules"  # where transformers puts code that it runs
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setenv("HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    folder = tmp_path / "own"
    build("llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    places = {"AutoConfig": "configuration_own.OwnConfig"}
    places["AutoModelForCausalLM"] = "modeling_own.OwnForCausalLM"
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": places}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING)
    return folder


def test_code_of_a_model_runs_only_where_the_study_says_so(own_code: Path) -> None:
    with pytest.raises(ModelError, match=r"Python code.*\[model\] trust_remote_code = true"):
        load_config(own_code, ModelSpec(id=str(own_code)))
    trusting = ModelSpec(id=str(own_code), trust_remote_code=True)
    assert load_config(own_code, trusting).model_type == "own"


def test_such_a_model_is_cut_saved_and_proved(own_code: Path, tmp_path: Path) -> None:
    trusting = ModelSpec(id=str(own_code), trust_remote_code=True)
    model = load_model(own_code, trusting, "language-modelling", ())
    check_model(model, batch_of(model), "language-modelling")
    remove_blocks(model, {1})
    (tmp_path / "out").mkdir()
    saved = save(model, None, "language-modelling", tmp_path / "out")
    assert "trust_remote_code=True" in saved.load
    assert prove(saved.load, tmp_path / "out", model, batch_of(model)).difference < 1e-4


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded.*model\.safetensors"):
        load_model(folder, ModelSpec(id=str(folder)), "classification", ("a", "b"))


def test_weights_in_the_older_format_are_read(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    spec = ModelSpec(id=str(folder))
    one = load_model(folder, spec, "classification", ("a", "b"))
    torch.save(one.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert same_tensors(one, load_model(folder, spec, "classification", ("a", "b")))


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    word_tokenizer().save_pretrained(folder)
    (tmp_path / "text.txt").write_text("\n".join(f"the cat sat on x{n % 9} mat" for n in range(99)))
    data = DataSpec(
        dataset=str(tmp_path / "text.txt"),
        task="language-modelling",
        items=ItemCounts(calibration=2, train=1, search=2, held_out=1),
        max_length=8,
    )
    spec = BenchSpec(
        model=ModelSpec(id=str(folder)),
        data=data,
        objectives=("perplexity",),
        cache=str(tmp_path / "cache"),
    )
    with pytest.raises(ModelError, match=r"bert .*both directions"):
        open_bench(spec)


def test_weights_that_are_torn_are_one_message(tmp_path: Path) -> None:
    BertForSequenceClassification(BertConfig(**COMMON)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"cannot be loaded: .*header"):
        load_model(tmp_path, ModelSpec(id=str(tmp_path)), "classification", ("a", "b"))
