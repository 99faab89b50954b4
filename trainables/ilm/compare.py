"""How far an effect is to be trusted, and other scores of layers to compare with.

Sources: Fisher's criterion in the form of the ILM code's class separation; description length by
online coding, "Information-Theoretic Probing with Minimum Description Length", Voita and Titov,
EMNLP 2020 (arXiv 2003.12298).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float, Int

from trainables.ilm.effects import Answers

_PORTIONS = 10


@dataclass(frozen=True)
class Bootstrap:
    """What becomes of effects and pick where the samples are drawn anew.

    Attributes:
        frequency: how often each layer is picked, as a share.
        low, high: between them lie 95 % of a layer's effects.
    """

    frequency: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def bootstrap(found: Sequence[Answers], draws: int, seed: int) -> Bootstrap:
    """Draw the samples `draws` times with replacement; all layers see the same draws.

    The probe and the components stay as they were fitted: what shows is the noise of judging on
    so many samples, not that of fitting on them.
    """
    lost = np.stack([one.lost for one in found])  # layers, lambdas, samples
    layers, lambdas, samples = lost.shape
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(samples, np.full(samples, 1 / samples), size=draws)
    counts = weights @ lost.reshape(-1, samples).T
    effects = np.maximum(counts.reshape(draws, layers, lambdas).max(2), 0) / samples
    picks = np.bincount(effects.argmax(1), minlength=layers) / draws
    low, high = np.quantile(effects, (0.025, 0.975), axis=0)
    return Bootstrap(tuple(picks.tolist()), tuple(low.tolist()), tuple(high.tolist()))


def mean_correlation(found: Float[np.ndarray, " components"], top_pc: int) -> float:
    """The mean of the `top_pc` largest correlations of components with the labels."""
    return float(np.sort(found)[-top_pc:].mean())


def fisher(
    states: Float[np.ndarray, "samples features"], labels: Int[np.ndarray, " samples"]
) -> float:
    """Mean squared distance of two classes' centres, by the summed spread within the classes."""
    groups = [states[labels == one] for one in np.unique(labels)]
    centres = [group.mean(0) for group in groups]
    within = sum(
        float(((group - centre) ** 2).sum(1).mean())
        for group, centre in zip(groups, centres, strict=True)
    )
    pairs = combinations(centres, 2)
    between = [float(np.linalg.norm(one - other)) ** 2 for one, other in pairs]
    return float(np.mean(between)) / max(within, 1e-6) if between else 0.0


def description_length(
    states: Float[np.ndarray, "samples features"], labels: Int[np.ndarray, " samples"], seed: int
) -> float:
    """Bits per label by online coding in ten portions; less is better.

    A class that no portion before has shown costs what a guess among all of them does.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    states, labels = states[order], labels[order]
    guess = float(np.log2(max(len(np.unique(labels)), 2)))
    edges = [len(labels) // _PORTIONS * part for part in range(_PORTIONS)] + [len(labels)]
    bits = edges[1] * guess
    for start, end in pairwise(edges[1:]):
        bits += _code(states[:start], labels[:start], states[start:end], labels[start:end], guess)
    return bits / len(labels)


def _code(
    seen: Float[np.ndarray, "before features"],
    known: Int[np.ndarray, " before"],
    states: Float[np.ndarray, "samples features"],
    labels: Int[np.ndarray, " samples"],
    guess: float,
) -> float:
    """Bits of some labels for who has learned from those before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(known)) < 2:
        return len(labels) * guess
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made = LogisticRegression(max_iter=300).fit(seen, known)
    column = {int(one): index for index, one in enumerate(made.classes_)}
    chances = made.predict_proba(states)
    return sum(
        -float(np.log2(max(row[column[int(label)]], 1e-10))) if int(label) in column else guess
        for row, label in zip(chances, labels, strict=True)
    )
