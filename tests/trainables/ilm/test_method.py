"""ILM as a stage: on files, with everything shared, and told in the ILM code's own form."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.support import families
from tests.support.benches import do
from tests.support.plugged import donor, opened
from trainables.bench.bench import Bench
from trainables.core.errors import FieldError, PlanError, UserError
from trainables.core.pictures import Bars, picture_data, read_picture
from trainables.ilm import ILM, Selection
from trainables.ilm import states as states_of
from trainables.ilm.effects import best_layer
from trainables.ilm.states import Donor, draw, layer_states, measured, pooled
from trainables.stage import Stage
from trainables.testing import check_data


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ilm")
    donor(folder / "donor")
    return folder


@pytest.fixture(scope="module")
def bench(place: Path) -> Bench:
    return opened(place)


@pytest.fixture
def ilm(place: Path) -> ILM:
    return ILM(str(place / "donor"), n_pcs=8, top_pc=3, n_samples=40, max_length=16, draws=50)


def test_effects_are_whole_numbers_of_samples(bench: Bench, ilm: ILM) -> None:
    (summary,) = do(bench.fork(), ilm)
    effects = summary.details["selection"]["effects"]
    assert len(effects) == 4
    for effect in effects:
        assert effect * 40 == pytest.approx(round(effect * 40), abs=1e-9) and 0 <= effect <= 1
    assert summary.effects == (), "the model stays"
    assert summary.counts["layer"] == summary.counts["pick"] == best_layer(effects)
    assert sum(summary.details["frequency"]) == pytest.approx(1)


def test_texts_longer_than_the_donor_takes_are_refused(bench: Bench, ilm: ILM) -> None:
    with pytest.raises(PlanError, match=r"ILM\.max_length: got 4096; allowed: up to the 2048 pos"):
        do(bench.fork(), replace(ilm, max_length=4096))


@pytest.mark.parametrize("score", ["in_sample", "held_out"])
def test_shared_and_naive_give_the_same(score: Any, place: Path, bench: Bench, ilm: ILM) -> None:
    ilm = replace(ilm, score=score, compare=("correlation", "fisher", "mdl"))
    naive = replace(bench, spec=bench.spec.model_copy(update={"naive": True})).fork()
    (once,), (again,), (alone,) = do(bench.fork(), ilm), do(bench.fork(), ilm), do(naive, ilm)
    assert once == again == alone


def test_all_is_computed_once(bench: Bench, ilm: ILM, monkeypatch: pytest.MonkeyPatch) -> None:
    do(bench.fork(), ilm)

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Donor, "states", never)
    monkeypatch.setattr(states_of, "fit_probe", never)
    assert do(bench.fork(), replace(ilm, top_pc=1))
    monkeypatch.setattr(states_of, "components", never)
    assert do(bench.fork(), replace(ilm, top_pc=2, lambdas=(0.25,)))


@pytest.mark.parametrize(
    "changed", [{"n_samples": 30}, {"seed": 1}, {"pooling": "last"}, {"max_length": 4}]
)
def test_what_decides_the_states_is_in_their_key(
    changed: dict[str, Any], bench: Bench, ilm: ILM
) -> None:
    keys = []
    for one in (ilm, replace(ilm, **changed)):
        settings = (one.n_samples, one.seed, one.pooling, one.max_length, one.dtype)
        keys.append(measured(bench, one.donor, *settings).key)
    assert keys[0] != keys[1]


def test_states_are_those_of_transformers(place: Path, bench: Bench, ilm: ILM) -> None:
    settings = (ilm.donor, ilm.n_samples, ilm.seed, "mean", ilm.max_length, "float32")
    seen = measured(bench, *settings)  # type: ignore[arg-type]
    model = AutoModel.from_pretrained(place / "donor").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "donor")
    sample = draw(bench, ilm.n_samples, ilm.seed)
    for index in (0, 7, 39):
        ids = tokenizer(sample.texts[index], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            hidden = model(**ids, output_hidden_states=True).hidden_states[1:]
        wanted = torch.stack([one[0].mean(0) for one in hidden]).numpy()
        assert np.allclose(seen.states[:, index].numpy(), wanted, atol=1e-5)
    assert seen.states.dtype == torch.float32


@pytest.mark.parametrize("name", families.DECODERS)
def test_padding_changes_nothing_on_any_family(name: str) -> None:
    model = families.build(name)
    (batch,) = families.batches(name, 1)
    alone = {key: value[-1:, :6] for key, value in batch.items()}
    for pooling in ("mean", "last", "first"):
        together = layer_states(model, [batch], pooling)[:, -1:]  # type: ignore[arg-type]
        apart = layer_states(model, [alone], pooling)  # type: ignore[arg-type]
        assert torch.allclose(together, apart, atol=1e-4)


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [2.0], [6.0]], [[1.0], [2.0], [6.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])  # padded on the right, and on the left
    assert pooled(hidden, mask, "mean").flatten().tolist() == [1.5, 4.0]
    assert pooled(hidden, mask, "last").flatten().tolist() == [2.0, 6.0]
    assert pooled(hidden, mask, "first").flatten().tolist() == [1.0, 2.0]


def test_it_is_told_in_the_ilm_codes_form(bench: Bench, ilm: ILM, tmp_path: Path) -> None:
    (summary,) = do(bench.fork(), ilm)
    found = ilm.find(bench).selection
    found.write(tmp_path / "selection.json")
    text = json.loads((tmp_path / "selection.json").read_text())
    assert list(text) == [
        *("task", "dataset", "slm_type", "llm_type", "n_samples", "n_pcs", "top_pc", "effects"),
        *("best_llm_layer", "seed"),
    ]
    assert text == summary.details["selection"]
    assert Selection.read(tmp_path / "selection.json") == found and found.consistent
    (picture,) = summary.pictures
    assert isinstance(picture, Bars) and picture.marked == (found.best_llm_layer,)
    assert read_picture(json.loads(json.dumps(picture_data(picture)))).band


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"effects": [1]}'])
def test_what_is_no_selection_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "selection.json").write_text(text)
    with pytest.raises(PlanError, match=r"no layer selection.*allowed"):
        Selection.read(tmp_path / "selection.json")


@pytest.mark.parametrize(
    "bad",
    [
        {"n_pcs": 0},
        {"top_pc": 17},
        {"lambdas": ()},
        {"lambdas": (1.5,)},
        {"n_samples": 3},
        {"pooling": "max"},
        {"score": "guess"},
        {"compare": ("luck",)},
    ],
)
def test_fields_say_what_is_allowed(bad: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match=rf"ILM\.{next(iter(bad))} = .*allowed"):
        ILM("x", **bad)


def test_it_comes_back_from_plain_data(ilm: ILM) -> None:
    check_data(ilm)
    assert Stage.from_dict(ilm.to_dict()) == ilm


Break = Callable[[ILM, Path], ILM]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ilm, place: replace(ilm, n_samples=41), r"calibration has 40"),
        (lambda ilm, place: replace(ilm, donor=str(place / "gone")), "gone"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    change: Break, said: str, place: Path, bench: Bench, ilm: ILM
) -> None:
    with pytest.raises(UserError, match=said):
        do(bench.fork(), change(ilm, place))


def test_a_donor_without_its_tokenizer_is_named(bench: Bench, ilm: ILM, tmp_path: Path) -> None:
    families.build("llama").save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="tokenizer"):
        do(bench.fork(), replace(ilm, donor=str(tmp_path / "bare")))
