"""PC patching, against planted layers, published effects and a reference written on its own."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from tests.support import families
from trainables.core.errors import PlanError
from trainables.ilm.compare import bootstrap, description_length, fisher, mean_correlation
from trainables.ilm.effects import (
    Answers,
    answers,
    answers_held_out,
    best_layer,
    components,
    correlations,
    fit_probe,
    folds,
    patched,
    strongest,
)
from trainables.ilm.states import layer_states

# Qwen2-0.5B on three data sets, 400 samples: how many answers patching costs, per layer.
PUBLISHED = {
    "cola": ("6 8 0 13 8 10 3 9 7 10 13 18 4 8 7 10 15 12 13 12 2 3 11 9", 11),
    "imdb": (
        "44 30 30 46 34 56 50 62 60 68 88 93 98 100 106 108 102 81 97 98 99 85 85 81",
        15,
    ),
    "sst2": (
        "49 46 30 54 51 65 69 89 85 77 83 84 93 90 89 98 93 90 84 83 86 73 76 65",
        15,
    ),
}


def reference(states: np.ndarray, labels: np.ndarray, n_pcs: int, top_pc: int) -> float:
    """The effect of one layer, written down from the description with nothing of ours."""
    pca = PCA(n_components=n_pcs, random_state=0)
    scores = pca.fit_transform(states)
    found = []
    for j in range(n_pcs):
        rest = [labels] if len(set(labels)) == 2 else [labels == k for k in set(labels)]
        found.append(max(abs(np.corrcoef(scores[:, j], one)[0, 1]) for one in rest))
    picked = np.argsort(-np.array(found))[:top_pc]
    probe = LogisticRegression(max_iter=1000).fit(states, labels)
    before = accuracy_score(labels, probe.predict(states))
    effects = [0.0]
    for share in (0.5, 1.0):
        removed = states - share * scores[:, picked] @ pca.components_[picked]
        effects.append(before - accuracy_score(labels, probe.predict(removed)))
    return max(effects)


def effect(states: np.ndarray, labels: np.ndarray, n_pcs: int = 16, top_pc: int = 5) -> Answers:
    basis, probe = components(states, n_pcs), fit_probe(states, labels)
    return answers(states, labels, basis, probe, top_pc, (0.5, 1.0))


def planted(layers: int, at: int, samples: int = 200, size: int = 24) -> tuple[np.ndarray, ...]:
    """States of which one layer has the labels on its first component, the others nowhere."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(samples) % 2)
    states = draw.normal(size=(layers, samples, size)).astype(np.float32)
    states[at, :, 3] += 12 * (labels - 0.5)
    return states, labels


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    """Real states of a small model."""
    model = families.build("qwen2")
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, families.VOCABULARY, (120, 9), generator=generator)
    mask = (torch.arange(9) < torch.randint(3, 10, (120, 1), generator=generator)).long()
    return layer_states(model, [{"input_ids": ids, "attention_mask": mask}], "mean").numpy()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_effects_choose_the_published_layers(name: str) -> None:
    counts, chosen = PUBLISHED[name]
    effects = [int(count) / 400 for count in counts.split()]
    assert len(effects) == 24
    assert best_layer(effects) == chosen


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("n_pcs", "top_pc"), [(16, 5), (8, 1), (4, 4)])
def test_a_reference_gives_the_same_effects(
    states: np.ndarray, classes: int, n_pcs: int, top_pc: int
) -> None:
    labels = np.random.default_rng(classes).integers(0, classes, states.shape[1])
    for layer in states:
        found = effect(layer, labels, n_pcs, top_pc)
        wanted = reference(layer, labels, n_pcs, top_pc) * len(labels)
        assert wanted == pytest.approx(round(wanted), abs=1e-6)
        assert found.count == round(wanted)


def test_a_planted_layer_is_chosen() -> None:
    layers, labels = planted(layers=6, at=4)
    found = [effect(layer, labels).count / len(labels) for layer in layers]
    assert best_layer(found) == 4
    assert found[4] == pytest.approx(0.5, abs=0.06)
    order = np.random.default_rng(1).permutation(len(labels))
    again = [effect(layer[order], labels[order]).count / len(labels) for layer in layers]
    assert best_layer(again) == 4


def test_nothing_taken_out_costs_nothing(states: np.ndarray) -> None:
    labels = np.arange(states.shape[1]) % 2
    basis, probe = components(states[0], 8), fit_probe(states[0], labels)
    assert answers(states[0], labels, basis, probe, 5, (0.0,)).count == 0
    same = patched(states[0], basis.scores, basis.components, 0.0)
    assert np.array_equal(same, states[0])


def test_correlations_by_hand() -> None:
    scores = np.array([[1.0, 5.0], [1.0, 5.0], [-1.0, 5.0], [-1.0, 5.0]])
    assert correlations(scores, np.array([0, 0, 1, 1])) == pytest.approx([1.0, 0.0])
    three = correlations(np.array([[0.0], [0.0], [3.0]]), np.array([0, 1, 2]))
    assert three == pytest.approx([1.0]), "of several classes the one it goes best with"
    assert strongest(np.array([0.1, 0.9, 0.9]), 2).tolist() == [1, 2]


def test_more_components_than_there_can_be_are_all_there_are() -> None:
    layers, labels = planted(layers=1, at=0, size=6)
    assert components(layers[0], 64).components.shape == (6, 6)
    assert effect(layers[0], labels, 64, 64).count > 0


def test_one_class_alone_is_refused(states: np.ndarray) -> None:
    with pytest.raises(PlanError, match="one class"):
        fit_probe(states[0], np.zeros(states.shape[1], int))


def test_held_out_samples_were_not_fitted_on() -> None:
    layers, labels = planted(layers=3, at=1)
    parts = list(folds(labels, 5, seed=0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert {int(labels[part].sum()) for part in parts} == {20}
    counts = []
    for layer in layers:
        rest = [np.setdiff1d(np.arange(len(labels)), part) for part in parts]
        fitted = [
            (part, components(layer[kept], 8), fit_probe(layer[kept], labels[kept]))
            for part, kept in zip(parts, rest, strict=True)
        ]
        counts.append(answers_held_out(layer, labels, fitted, 3, (0.5, 1.0)).count)
    assert best_layer([float(count) for count in counts]) == 1
    assert counts[1] > 4 * max(counts[0], counts[2], 1), "noise has nothing to lose"


def test_the_bootstrap_says_how_sure_a_pick_is() -> None:
    layers, labels = planted(layers=4, at=2)
    sure = bootstrap([effect(layer, labels) for layer in layers], 200, seed=0)
    assert sure.frequency == (0.0, 0.0, 1.0, 0.0)
    alike = effect(layers[2], labels)
    tied = bootstrap([alike, alike], 200, seed=0)
    assert tied.frequency == (1.0, 0.0), "the first of equal ones"
    right = alike.count / len(labels)
    assert sure.low[2] < right < sure.high[2]


def test_other_scores_by_hand() -> None:
    states = np.array([[0.0], [2.0], [10.0], [12.0]], np.float32)
    labels = np.array([0, 0, 1, 1])
    assert fisher(states, labels) == pytest.approx(100 / 2)
    assert mean_correlation(np.array([0.2, 0.4, 0.9]), 2) == pytest.approx(0.65)
    layers, labels = planted(layers=2, at=1)
    blind, seeing = (description_length(layer, labels, 0) for layer in layers)
    assert seeing < 0.5 < blind


@pytest.mark.slow
@pytest.mark.assets
def test_a_reference_gives_the_same_effects_on_a_real_model() -> None:
    """SmolLM2-135M on film reviews, every layer."""
    from trainables.bench.assets.fetch import fetch
    from trainables.ilm.states import Donor

    table = pq.read_table(next(fetch("rotten-tomatoes").glob("*.parquet"))).to_pydict()
    picked = np.random.default_rng(0).choice(len(table["text"]), 64, replace=False)
    texts = [str(table["text"][index]) for index in picked]
    labels = np.unique([str(table["label"][index]) for index in picked], return_inverse=True)[1]
    donor = Donor.of("asset:smollm2-135m")
    found = donor.states(texts, "mean", 32, torch.device("cpu")).numpy()
    assert found.shape == (30, 64, 576)
    for layer in found:
        assert effect(layer, labels).count == round(reference(layer, labels, 16, 5) * 64)
