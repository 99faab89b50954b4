"""Gaussian processes over described points: what a model not measured yet is likely to score.

The kernel adds what members of sets do alone, what they do in pairs, what all other settings do,
and what members do together with those settings. How much of each, and how smooth, is chosen by
the likelihood, and so is whether a metric is seen by its logarithm (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, chapter 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from search.samplers.bayesian.features import Floats, Table

# Shares of the variance: members alone, pairs of them, other settings, members times settings.
MIXES = (
    (0.45, 0.10, 0.35, 0.10),
    (0.25, 0.25, 0.25, 0.25),
    (0.70, 0.05, 0.20, 0.05),
    (0.05, 0.02, 0.90, 0.03),
)
WIDTHS = (0.5, 1.2)  # over which other settings, scaled to 0..1, tell the same
NOISES = (1e-5, 1e-2)  # shares of the variance
CHOSEN_ON = 64  # points on which the kernel is chosen
TINY = 1e-9


@dataclass(frozen=True)
class Kernel:
    """How alike two points are expected to score."""

    mix: tuple[float, float, float, float]
    width: float
    noise: float


KERNELS = [Kernel(*one) for one in product(MIXES, WIDTHS, NOISES)]


class Parts:
    """What all kernels of two tables are made of.

    Args:
        most: members that the largest known point has; products of members are shares of it.
    """

    def __init__(self, left: Table, right: Table, most: float) -> None:
        self.members = left.members @ right.members.T / most
        squares = (left.others**2).sum(axis=1)[:, None] + (right.others**2).sum(axis=1)[None]
        self.distance = np.maximum(squares - 2 * left.others @ right.others.T, 0.0)

    def kernel(self, kernel: Kernel) -> Floats:
        """[left, right]"""
        alone, pairs, others, both = kernel.mix
        near = np.exp(-self.distance / (2 * kernel.width**2))
        found: Floats = (alone + pairs * self.members + both * near) * self.members + others * near
        return found


@dataclass(frozen=True)
class Posterior:
    """Means and deviations of one metric, [points] each, seen as it is or by its logarithm."""

    mean: Floats
    deviation: Floats
    log: bool

    def draw(self, normal: Floats) -> Floats:
        """[points, draws] of the metric itself, from [draws] of a normal distribution."""
        seen = self.mean[:, None] + self.deviation[:, None] * normal
        return np.exp(np.clip(seen, -300.0, 300.0)) if self.log else seen


class Surrogate:
    """What is known of one metric."""

    def __init__(self, known: Table, scores: Floats, kernel: Kernel, log: bool) -> None:
        self.known, self.kernel, self.log = known, kernel, log
        self.most = _most(known)
        seen = np.log(scores) if log else scores
        self.centre, self.spread = float(seen.mean()), float(seen.std()) or 1.0
        self.whitened, _ = _whitened(Parts(known, known, self.most).kernel(kernel), kernel.noise)
        self.weights = self.whitened @ ((seen - self.centre) / self.spread)
        self.scale = max(float(self.weights @ self.weights) / len(seen), TINY)

    def at(self, asked: Table) -> Posterior:
        """What points are likely to score."""
        across = self.whitened @ Parts(self.known, asked, self.most).kernel(self.kernel)
        alone, pairs, others, both = self.kernel.mix
        share = asked.members.sum(axis=1) / self.most
        own = (alone + pairs * share + both) * share + others
        variance = np.maximum(own - (across**2).sum(axis=0), TINY) * self.scale
        mean = self.centre + self.spread * (across.T @ self.weights)
        return Posterior(mean, self.spread * np.sqrt(variance), self.log)


def fit(known: Table, scores: Floats) -> list[Surrogate]:
    """A model of every metric.

    Args:
        scores: [known points, metrics].
    """
    few = np.unique(np.linspace(0, len(known) - 1, min(len(known), CHOSEN_ON)).astype(int))
    some = Table(known.members[few], known.others[few])
    parts = Parts(some, some, _most(known))
    ready = [_whitened(parts.kernel(kernel), kernel.noise) for kernel in KERNELS]
    found = []
    for column in scores.T:
        kernel, log = _choose(ready, column[few], positive=bool(column.min() > 0))
        found.append(Surrogate(known, column, kernel, log))
    return found


def _choose(
    ready: Sequence[tuple[Floats, float]], scores: Floats, *, positive: bool
) -> tuple[Kernel, bool]:
    """The kernel, and whether by the logarithm, that make the scores most likely."""
    sights = [(scores, 0.0, False)]
    if positive:
        sights.append((np.log(scores), float(np.log(scores).sum()), True))
    found: list[tuple[float, Kernel, bool]] = []
    for kernel, (whitened, volume) in zip(KERNELS, ready, strict=True):
        for seen, jacobian, log in sights:
            found.append((_likelihood(whitened, seen) - volume - jacobian, kernel, log))
    _, kernel, log = max(found, key=lambda one: one[0])
    return kernel, log


def _likelihood(whitened: Floats, seen: Floats) -> float:
    """The logarithm of the marginal likelihood at the best scale, without the kernel's volume."""
    weights = whitened @ (seen - seen.mean())
    return -0.5 * len(seen) * float(np.log(max(float(weights @ weights) / len(seen), TINY)))


def _most(known: Table) -> float:
    return max(1.0, float(known.members.sum(axis=1).max(initial=1.0)))


def _whitened(kernel: Floats, noise: float) -> tuple[Floats, float]:
    """The inverse of a kernel's root, and half the logarithm of its determinant."""
    root = np.linalg.cholesky(kernel + (noise + 1e-8) * np.eye(len(kernel)))
    inverse: Floats = np.linalg.inv(root)
    return inverse, float(np.log(np.diag(root)).sum())
