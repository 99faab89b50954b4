"""PC patching: how many answers of a linear probe hang on a few principal components.

A layer's states are taken apart into principal components. Those that go with the labels are
taken out of the states again, by a share lambda, and what the probe then no longer gets right is
the layer's effect. Pure functions on arrays; accuracies are kept as counts, so that an effect is
a whole number of samples.

Source: PC patching as in "Interpret and Improve In-Context Learning via the Lens of Input-Label
Mappings", Sun et al., ACL 2025 (long.196), applied to whole layers.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from trainables.core.errors import PlanError

_FLAT = 1e-8  # a score that varies less goes with nothing


@dataclass(frozen=True)
class Basis:
    """The first principal components of some states."""

    scores: Float[np.ndarray, "samples components"]
    components: Float[np.ndarray, "components features"]
    mean: Float[np.ndarray, " features"]


@dataclass(frozen=True)
class Probe:
    """A logistic regression: one row of weights per class, a single one for two classes."""

    weight: Float[np.ndarray, "rows features"]
    bias: Float[np.ndarray, " rows"]
    classes: Int[np.ndarray, " classes"]

    def predict(self, states: Float[np.ndarray, "samples features"]) -> Int[np.ndarray, " samples"]:
        """The likeliest class of each sample."""
        scores = states @ self.weight.T + self.bias
        index = (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else scores.argmax(1)
        found: Int[np.ndarray, " samples"] = np.take(self.classes, index)
        return found


@dataclass(frozen=True)
class Answers:
    """Which samples the probe gets right, before and after patching by each lambda."""

    before: Bool[np.ndarray, " samples"]
    after: Bool[np.ndarray, "lambdas samples"]

    @property
    def lost(self) -> Int[np.ndarray, "lambdas samples"]:
        """1 for an answer lost by patching, -1 for one won."""
        found: Int[np.ndarray, "lambdas samples"] = self.before.astype(int) - self.after
        return found

    @property
    def count(self) -> int:
        """The effect as a number of samples: the most that any lambda loses, at least 0."""
        return max(0, int(self.lost.sum(1).max()))


def components(states: Float[np.ndarray, "samples features"], n_pcs: int) -> Basis:
    """The states' principal components, as many as there can be up to `n_pcs`."""
    from sklearn.decomposition import PCA

    most = min(n_pcs, *states.shape)
    found = PCA(n_components=most, svd_solver="auto", random_state=0)
    scores = found.fit_transform(states)
    return Basis(scores, found.components_, found.mean_)


def fit_probe(
    states: Float[np.ndarray, "samples features"], labels: Int[np.ndarray, " samples"]
) -> Probe:
    """A logistic regression (L2, C = 1) on all samples.

    Raises PlanError where there is only one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        raise PlanError("ILM: all samples are of one class", do="more samples, or other data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 1000 steps it is near enough
        made = LogisticRegression(C=1.0, max_iter=1000).fit(states, labels)
    return Probe(made.coef_, made.intercept_, made.classes_)


def correlations(
    scores: Float[np.ndarray, "samples components"], labels: Int[np.ndarray, " samples"]
) -> Float[np.ndarray, " components"]:
    """|Pearson correlation| of each component with the labels.

    With more than two classes the largest one with any class against the rest. A component or a
    class that does not vary goes with nothing.
    """
    classes = np.unique(labels)
    targets = [labels] if len(classes) <= 2 else [labels == one for one in classes]
    wanted = np.stack([one.astype(float) for one in targets], 1)
    flat = (scores.std(0) < _FLAT)[:, None] | (wanted.std(0) < _FLAT)[None]
    centred = scores.astype(float) - scores.astype(float).mean(0)
    target = wanted - wanted.mean(0)
    norms = np.linalg.norm(centred, axis=0)[:, None] * np.linalg.norm(target, axis=0)[None]
    found = np.abs(centred.T @ target) / np.where(flat, 1.0, norms)
    largest: Float[np.ndarray, " components"] = np.where(flat, 0.0, found).max(1)
    return largest


def strongest(found: Float[np.ndarray, " components"], top_pc: int) -> Int[np.ndarray, " chosen"]:
    """The `top_pc` components with the largest correlations, of equal ones the first."""
    order: Int[np.ndarray, " chosen"] = np.argsort(-found, kind="stable")[: max(1, top_pc)]
    return order


def patched(
    states: Float[np.ndarray, "samples features"],
    scores: Float[np.ndarray, "samples chosen"],
    directions: Float[np.ndarray, "chosen features"],
    share: float,
) -> Float[np.ndarray, "samples features"]:
    """The states without a share of what these components add to them."""
    left: Float[np.ndarray, "samples features"] = states - share * (scores @ directions)
    return left


def answers(
    states: Float[np.ndarray, "samples features"],
    labels: Int[np.ndarray, " samples"],
    basis: Basis,
    probe: Probe,
    top_pc: int,
    lambdas: Sequence[float],
) -> Answers:
    """What the probe says of the very samples that everything was fitted on."""
    picked = strongest(correlations(basis.scores, labels), top_pc)
    return _answers(
        states, labels, basis.scores[:, picked], basis.components[picked], probe, lambdas
    )


def answers_held_out(
    states: Float[np.ndarray, "samples features"],
    labels: Int[np.ndarray, " samples"],
    parts: Sequence[tuple[Int[np.ndarray, " held"], Basis, Probe]],
    top_pc: int,
    lambdas: Sequence[float],
) -> Answers:
    """The same of samples that components and probe were not fitted on, part by part.

    Args:
        parts: (samples held out, what the others' components are, what the others' probe is).
    """
    before = np.zeros(len(labels), bool)
    after = np.zeros((len(lambdas), len(labels)), bool)
    for held, basis, probe in parts:
        rest = np.setdiff1d(np.arange(len(labels)), held)
        picked = strongest(correlations(basis.scores, labels[rest]), top_pc)
        scores = (states[held] - basis.mean) @ basis.components[picked].T
        chosen = basis.components[picked]
        found = _answers(states[held], labels[held], scores, chosen, probe, lambdas)
        before[held], after[:, held] = found.before, found.after
    return Answers(before, after)


def _answers(
    states: Float[np.ndarray, "samples features"],
    labels: Int[np.ndarray, " samples"],
    scores: Float[np.ndarray, "samples chosen"],
    directions: Float[np.ndarray, "chosen features"],
    probe: Probe,
    lambdas: Sequence[float],
) -> Answers:
    changed = [patched(states, scores, directions, share) for share in lambdas]
    after = np.stack([probe.predict(one) == labels for one in changed])
    return Answers(probe.predict(states) == labels, after)


def folds(
    labels: Int[np.ndarray, " samples"], count: int, seed: int
) -> Iterator[Int[np.ndarray, " held"]]:
    """The samples of each of `count` parts, which hold about as many of each class."""
    draw = np.random.default_rng(seed)
    part = np.empty(len(labels), int)
    given = 0
    for one in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == one))
        part[members] = (given + np.arange(len(members))) % count
        given += len(members)
    yield from (np.flatnonzero(part == number) for number in range(count))


def best_layer(effects: Sequence[float]) -> int:
    """The first layer with the largest effect, from 0 on."""
    return max(range(len(effects)), key=lambda layer: (effects[layer], -layer))
