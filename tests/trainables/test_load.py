"""One door to exported models: it tells their forms apart, and the doors of old stay open."""

from pathlib import Path

import pytest
import torch

from tests.support.families import FAMILIES, batches, build
from tests.support.toys import bytes_tokenizer
from tests.trainables.bench.models.test_save import uneven
from trainables.bench.models.nonuniform import load_exact, save_exact
from trainables.bench.models.save import save
from trainables.bench.models.verify import logits, prove
from trainables.core.errors import ModelError, UserError
from trainables.load import load
from trainables.routing.routed_model import RoutedModel


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_folder_loads_with_the_head_it_was_saved_with(name: str, tmp_path: Path) -> None:
    model, batch = build(name), batches(name)[0]
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is type(model) and not again.training
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_an_exact_form_loads_from_its_own_folder_and_beside_a_padded_one(tmp_path: Path) -> None:
    model, batch = uneven("llama"), batches("llama")[0]
    save_exact(model, tmp_path)
    assert torch.equal(logits(load(str(tmp_path)), batch), logits(model, batch))
    (tmp_path / "both").mkdir()
    saved = save(model, bytes_tokenizer(), "language-modelling", tmp_path / "both")
    assert saved.exact is not None and saved.exact.startswith("from trainables.load import load\n")
    assert prove(saved.exact, tmp_path / "both", model, batch).equal


def test_a_routed_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(RoutedModel, "load", lambda folder: asked.append(folder))
    (tmp_path / "routed.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    load(tmp_path)
    assert asked == [tmp_path]


def test_the_doors_of_old_stay_open() -> None:
    from trainables.bench import uneven as old_exact
    from trainables.routed import RoutedModel as OldRouted

    assert old_exact.load_exact is load_exact
    assert OldRouted is RoutedModel


def test_a_folder_without_a_model_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no exported model there: got .*allowed: .*exact\.json"):
        load(tmp_path / "gone")
    (tmp_path / "config.json").write_text('{"architectures": ["MadeUpModel"]}')
    with pytest.raises(ModelError, match=r'architectures: got \["MadeUpModel"\]'):
        load(tmp_path)
