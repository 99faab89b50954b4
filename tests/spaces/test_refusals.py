"""What no trial of a space could do on a model and its data is refused with the baseline."""

from pathlib import Path

import pytest

from spaces.neurons import NeuronsSpace
from spaces.omission import OmissionSpace
from spaces.omission_neurons_wanda import OmissionNeuronsWandaSpace
from spaces.omission_search import OmissionSearchSpace
from spaces.omission_wanda import OmissionWandaSpace
from spaces.similarity import SimilaritySpace
from spaces.space import Space
from spaces.wanda import WandaSpace
from tests.support.benches import tiny_bench
from tests.support.families import build
from trainables.core.errors import UserError

REFUSED: list[tuple[str, Space, str]] = [
    ("t5", WandaSpace(sequential=(False, True)), "2 stacks of blocks"),
    ("resnet", OmissionWandaSpace(sequential=(True,)), "2 stacks of blocks"),
    ("t5", OmissionSearchSpace(by=("influence", "window")), "2 stacks of blocks"),
    ("resnet", NeuronsSpace(), "family resnet has no feed-forward layers"),
    ("bert", NeuronsSpace(), r"min_neurons_per_layer: got \[400, 1000\]; .* 48 neurons"),
    ("bert", OmissionSearchSpace(), "on classification data.*look at no loss"),
    ("vit", OmissionSearchSpace(losses=("kl",), by=("evolve",)), "on image-classification data"),
    ("bert", OmissionSearchSpace(by=("influence",), unit="ffn", losses=("ppl",)), "unit"),
    ("t5", OmissionSpace(unit="attention"), "skipping only the attention needs"),
    ("bert", OmissionWandaSpace(unit="ffn"), "skipping only the ffn needs"),
    ("resnet", SimilaritySpace(per_sample=True), "equally many positions"),
    ("bert", SimilaritySpace(metric="perplexity"), "metric.*accuracy.*for classification"),
    ("vit", SimilaritySpace(watch="acuracy"), "watch.*accuracy.*for image-classification"),
]


@pytest.mark.parametrize(("name", "space", "said"), REFUSED)
def test_what_no_trial_could_do_is_refused_first(
    tmp_path: Path, name: str, space: Space, said: str
) -> None:
    with pytest.raises((UserError, ValueError), match=f"(?s){said}"):
        space.survey(tiny_bench(tmp_path, build(name)))


ALLOWED: list[tuple[str, Space]] = [
    ("bert", WandaSpace(sequential=(False, True))),
    ("t5", OmissionWandaSpace()),
    ("bert", OmissionSearchSpace(by=("influence", "window"))),
    ("t5", OmissionSearchSpace(by=("influence",))),
    ("llama", OmissionWandaSpace(unit="ffn", sequential=(True,))),
    ("resnet", SimilaritySpace(watch="accuracy")),
    ("t5", NeuronsSpace(min_neurons_per_layer=(8, 16), score=("gradient", "wanda"))),
    ("llama", OmissionNeuronsWandaSpace(min_neurons_per_layer=(8, 16), answers_only=True)),
]


@pytest.mark.parametrize(("name", "space"), ALLOWED)
def test_what_trials_can_do_is_not(tmp_path: Path, name: str, space: Space) -> None:
    assert isinstance(space.survey(tiny_bench(tmp_path, build(name))), dict)
