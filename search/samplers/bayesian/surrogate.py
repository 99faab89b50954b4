"""Gaussian processes over described points: what a model not measured yet is likely to score.

The kernel adds what members of sets do alone, what they do in pairs, what all other settings do,
and what members do together with those settings. What a member does alone is expected to go by its
price, more or less. How much of each, and how smooth, is chosen by the likelihood, and so is
whether a metric is seen by its logarithm (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapter 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri, dtrtrs

from search.samplers.bayesian.features import Floats, Table

# Shares of the variance: members alone, pairs of them, other settings, members times settings.
Mix = tuple[float, float, float, float]
MIXES: tuple[Mix, ...] = (
    (0.45, 0.10, 0.35, 0.10),
    (0.25, 0.25, 0.25, 0.25),
    (0.70, 0.05, 0.20, 0.05),
    (0.05, 0.02, 0.90, 0.03),
)
# Of what members do alone: all as their prices, each about its price, each for itself.
TRUSTS = ((0.6, 0.3, 0.1), (0.2, 0.4, 0.4), (0.0, 0.0, 1.0))
WIDTHS = (0.5, 1.2)  # over which other settings, scaled to 0..1, tell the same
NOISES = (1e-5, 1e-2)  # shares of the variance
CHOSEN_ON = 64  # points on which the kernel is chosen
TINY = 1e-9


@dataclass(frozen=True)
class Kernel:
    """How alike two points are expected to score.

    Attributes:
        width: 0 for products of the settings themselves, as parameters count: exactly.
    """

    mix: Mix
    trust: tuple[float, float, float]
    width: float
    noise: float


KERNELS = [Kernel(*one) for one in product(MIXES, TRUSTS, WIDTHS, NOISES)]
KERNELS.append(Kernel((0.0, 0.0, 1.0, 0.0), TRUSTS[-1], 0.0, 1e-8))


@dataclass(frozen=True)
class Scale:
    """What the largest known point has, so that products of members are shares of it."""

    count: float
    sums: float
    squares: float

    @classmethod
    def of(cls, known: Table) -> "Scale":
        found = known.count, known.sums**2, known.squares
        return cls(*(float(one.max(initial=0.0)) or 1.0 for one in found))


class Parts:
    """What all kernels of two tables are made of."""

    def __init__(self, left: Table, right: Table, scale: Scale) -> None:
        self.left, self.right, self.scale = left, right, scale
        self.own = left.members @ right.members.T / scale.count
        self.each = left.weights @ right.weights.T / scale.squares
        self.all = np.outer(left.sums, right.sums) / scale.sums
        squares = (left.others**2).sum(axis=1)[:, None] + (right.others**2).sum(axis=1)[None]
        self.distance = np.maximum(squares - 2 * left.others @ right.others.T, 0.0)
        self._made: dict[object, Floats] = {}

    def kernel(self, kernel: Kernel) -> Floats:
        """[left, right], without noise."""
        same = (kernel.mix, kernel.trust, kernel.width)
        if same not in self._made:
            alone, pairs, others, both = kernel.mix
            near, members = self._near(kernel.width), self._members(kernel.trust)
            self._made[same] = (alone + pairs * members + both * near) * members + others * near
        return self._made[same]

    def _near(self, width: float) -> Floats:
        if width not in self._made:
            if width:
                self._made[width] = np.exp(-self.distance / (2 * width**2))
            else:
                each = (1 + self.left.others[:, None] * self.right.others[None]) / 2
                self._made[width] = each.prod(axis=2)
        return self._made[width]

    def _members(self, trust: tuple[float, float, float]) -> Floats:
        if trust not in self._made:
            self._made[trust] = trust[0] * self.all + trust[1] * self.each + trust[2] * self.own
        return self._made[trust]


def _own(table: Table, kernel: Kernel, scale: Scale) -> Floats:
    """[points]: the kernel's diagonal."""
    alone, pairs, others, both = kernel.mix
    members = kernel.trust[0] * table.sums**2 / scale.sums
    members = members + kernel.trust[1] * table.squares / scale.squares
    members = members + kernel.trust[2] * table.count / scale.count
    near = 1.0 if kernel.width else np.prod((1 + table.others**2) / 2, axis=1)
    found: Floats = (alone + pairs * members + both * near) * members + others * near
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
    """What is known of one metric, from `parts` of all known points with each other."""

    def __init__(self, scores: Floats, kernel: Kernel, parts: Parts, log: bool) -> None:
        self.kernel, self.log = kernel, log
        seen = np.log(scores) if log else scores
        self.centre, self.spread = float(seen.mean()), float(seen.std()) or 1.0
        root = _root(parts.kernel(kernel), kernel.noise)
        self.whitened: Floats = dtrtri(root, lower=1)[0]
        self.weights = self.whitened @ ((seen - self.centre) / self.spread)
        self.scale = max(float(self.weights @ self.weights) / len(seen), TINY)

    def at(self, parts: Parts) -> Posterior:
        """What points are likely to score, from the parts of known points with them."""
        across = self.whitened @ parts.kernel(self.kernel)
        own = _own(parts.right, self.kernel, parts.scale)
        variance = np.maximum(own - (across**2).sum(axis=0), TINY) * self.scale
        mean = self.centre + self.spread * (across.T @ self.weights)
        return Posterior(mean, self.spread * np.sqrt(variance), self.log)


@dataclass(frozen=True)
class Models:
    """One of every metric, all from the same points."""

    known: Table
    each: Sequence[Surrogate]

    def __len__(self) -> int:
        return len(self.each)

    def at(self, asked: Table) -> list[Posterior]:
        """What points are likely to score in every metric."""
        parts = Parts(self.known, asked, Scale.of(self.known))
        return [one.at(parts) for one in self.each]


def fit(known: Table, scores: Floats) -> Models:
    """A model of every metric.

    Args:
        scores: [known points, metrics].
    """
    few = np.unique(np.linspace(0, len(known) - 1, min(len(known), CHOSEN_ON)).astype(np.int64))
    some, sights = known.of(few), list[Sight]()
    for metric, column in enumerate(scores.T):
        sights.append(Sight(metric, column, 0.0))
        if column.min() > 0:
            sights.append(Sight(metric, np.log(column), float(np.log(column[few]).sum())))
    scale = Scale.of(known)
    likely = _likelihoods(Parts(some, some, scale), [one.seen[few] for one in sights])
    likely -= np.array([one.jacobian for one in sights])
    found, parts = [], Parts(known, known, scale)
    for metric, column in enumerate(scores.T):
        own = [at for at, one in enumerate(sights) if one.metric == metric]
        kernel, best = np.unravel_index(int(likely[:, own].argmax()), (len(KERNELS), len(own)))
        found.append(Surrogate(column, KERNELS[kernel], parts, log=bool(best)))
    return Models(known, found)


@dataclass(frozen=True)
class Sight:
    """A metric as it is, or by its logarithm, and by how much that changes a density."""

    metric: int
    seen: Floats
    jacobian: float


def _likelihoods(parts: Parts, seen: Sequence[Floats]) -> Floats:
    """[kernels, sights]: the logarithm of the marginal likelihood at the best scale."""
    columns = np.stack(seen, axis=1)
    spread = columns.std(axis=0)
    spread[spread <= 0] = 1.0
    centred = (columns - columns.mean(axis=0)) / spread
    roots = [_root(parts.kernel(one), one.noise) for one in KERNELS]
    weights = np.stack([dtrtrs(root, centred, lower=1)[0] for root in roots])
    scale = np.maximum((weights**2).mean(axis=1), TINY)
    volume = np.log([np.diag(root) for root in roots]).sum(axis=1)  # half of log det
    found: Floats = -len(centred) * (np.log(spread) + 0.5 * np.log(scale)) - volume[:, None]
    return found


def _root(kernel: Floats, noise: float) -> Floats:
    """The lower root of a kernel with its noise, laid out as LAPACK has it."""
    noisy = kernel.copy()
    noisy.reshape(-1)[:: len(noisy) + 1] += noise + 1e-8
    root, failed = dpotrf(noisy.T, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError("a kernel is not positive definite")
    found: Floats = root
    return found
