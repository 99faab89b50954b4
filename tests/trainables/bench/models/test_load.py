"""The untouched model of a study: new from a config, trained first where the study asks."""

from pathlib import Path

import pytest

from trainables.bench.bench import Bench
from trainables.bench.models.load import fresh, load_model
from trainables.bench.training.loop import Training
from trainables.core.errors import PlanError
from trainables.core.fork import same_tensors
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
    with pytest.raises(PlanError, match=spec.id):
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
