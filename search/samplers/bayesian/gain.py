"""How much a point is expected to add to the front: expected hypervolume improvement.

Emmerich, Giannakoglou and Naujoks 2006, by draws: the volume that a draw dominates, is within the
reference corner, and no known point dominates. Less is better in every objective.
"""

from statistics import NormalDist

import numpy as np

from search.samplers.bayesian.features import Floats

DRAWS = 16  # of a score
SPOTS = 384  # where volume is sampled with three and more objectives


def normals(outputs: int, draws: int = DRAWS) -> Floats:
    """[outputs, draws] that stand for a normal distribution evenly, each output in its own order:
    a Kronecker sequence."""
    steps = np.array([(0.5 + (n + 1) * (2 ** (1 / 2) + k * 3 ** (1 / 2)) % 1) % 1
                      for k in range(outputs) for n in range(draws)])  # fmt: skip
    even = np.clip(steps, 0.02, 0.98)
    normal = NormalDist()
    return np.array([normal.inv_cdf(float(u)) for u in even]).reshape(outputs, draws)


def gains(drawn: Floats, front: Floats, corner: Floats, seed: int = 0) -> Floats:
    """[points, draws]: what every draw adds.

    Args:
        drawn: [points, draws, objectives].
        front: [members, objectives], none of which dominates another.
        corner: [objectives], beyond which nothing counts.
    """
    if drawn.shape[2] == 1:
        best = min(float(corner[0]), float(front.min(initial=np.inf)))
        found: Floats = np.maximum(best - drawn[:, :, 0], 0.0)
        return found
    if drawn.shape[2] == 2:
        return _areas(drawn, front, corner)
    return _volumes(drawn, front, corner, seed)


def _areas(drawn: Floats, front: Floats, corner: Floats) -> Floats:
    """Exactly, strip by strip between the front's members."""
    inside = front[(front < corner).all(axis=1)]
    ordered = inside[np.argsort(inside[:, 0], kind="stable")]
    left = np.concatenate([[-np.inf], ordered[:, 0]])
    right = np.concatenate([ordered[:, 0], corner[:1]])
    top = np.concatenate([corner[1:], ordered[:, 1]])
    across, up = drawn[:, :, 0, None], drawn[:, :, 1, None]
    width = np.maximum(right - np.maximum(across, left), 0.0)
    found: Floats = (width * np.maximum(top - up, 0.0)).sum(axis=2)
    return found


def _volumes(drawn: Floats, front: Floats, corner: Floats, seed: int) -> Floats:
    """By spots drawn between the best of everything and the corner."""
    lowest = np.minimum(drawn.reshape(-1, drawn.shape[2]).min(axis=0), front.min(axis=0))
    lowest = np.minimum(lowest, corner - 1e-12)
    spots = np.random.default_rng(seed).uniform(lowest, corner, (SPOTS, len(corner)))
    free = spots[~(front[None] <= spots[:, None]).all(axis=2).max(axis=1, initial=False)]
    covered = (drawn[:, :, None] <= free).all(axis=3)
    found: Floats = covered.sum(axis=2) * float(np.prod(corner - lowest)) / SPOTS
    return found
