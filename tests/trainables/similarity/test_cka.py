"""CKA against an independent reference, and what it does with too little, empty or broken data."""

import numpy as np
import pytest
import torch

from trainables.similarity.cka import Minibatches, PerSample, gram


def hsic(k: np.ndarray, other: np.ndarray) -> np.floating:
    """The unbiased estimator as Song et al. write it, times n (n - 3)."""
    n = len(k)
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    one = np.ones(n, dtype=k.dtype)
    cross = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return np.trace(k @ other) + cross - 2 * (one @ k @ other @ one) / (n - 2)


def reference(batches: list[list[np.ndarray]]) -> np.ndarray:
    count = len(batches[0])
    inner = np.zeros((count, count), dtype=np.longdouble)
    for outputs in batches:
        wide = [x.astype(np.longdouble) for x in outputs]  # this form cancels more than ours
        grams = [x @ x.T for x in wide]
        inner += [[hsic(a, b) for b in grams] for a in grams]
    return 100 * inner / np.sqrt(np.outer(np.diag(inner), np.diag(inner)))


def biased_reference(outputs: list[np.ndarray]) -> np.ndarray:
    """Kornblith et al.: Frobenius norms of cross-covariances."""
    centred = [x.astype(np.float64) - x.astype(np.float64).mean(0) for x in outputs]
    cross = [[np.linalg.norm(a.T @ b) ** 2 for b in centred] for a in centred]
    own = np.sqrt(np.diag(np.array(cross)))
    return 100 * np.array(cross) / np.outer(own, own)


def drifting(sizes: tuple[int, ...], blocks: int, width: int, offset: float) -> list[list]:
    """Batches of block outputs that grow apart, far from the origin (where sums cancel)."""
    rng = np.random.default_rng(0)
    batches = []
    for n in sizes:
        state = rng.normal(size=(n, width)) + offset
        outputs = []
        for block in range(blocks):
            state = state + rng.normal(size=(n, width)) * 0.3 * (block + 1)
            outputs.append(state.astype(np.float32))
        batches.append(outputs)
    return batches


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_minibatches_equal_the_reference(offset: float) -> None:
    batches = drifting((8, 8, 5), blocks=4, width=96, offset=offset)
    sums = Minibatches(4)
    for outputs in batches:
        sums.add(torch.stack([gram(torch.from_numpy(x)) for x in outputs]))
    assert np.abs(sums.matrix().numpy() - reference(batches)).max() < 1e-6
    assert sums.used == 21 and sums.dropped == 0


def test_wide_outputs_are_summed_in_parts() -> None:
    x = torch.randn(4, 70_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(x), x.double() @ x.double().T, rtol=1e-12, atol=1e-9)


def test_independent_outputs_are_not_alike() -> None:
    """The biased form would say 96 % here."""
    rng = np.random.default_rng(1)
    sums = Minibatches(2)
    for _ in range(40):
        sums.add(torch.stack([gram(torch.from_numpy(rng.normal(size=(32, 768)))) for _ in "ab"]))
    assert abs(float(sums.matrix()[0, 1])) < 2
    assert float(sums.matrix()[0, 0]) == pytest.approx(100)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_minibatches_below_four_are_dropped(size: int) -> None:
    sums = Minibatches(2)
    sums.add(torch.ones(2, size, size, dtype=torch.float64))
    assert sums.used == 0 and sums.dropped == size
    assert bool(sums.matrix().isnan().all())


def test_examples_with_nan_are_left_out() -> None:
    outputs = drifting((9,), blocks=3, width=20, offset=0.0)[0]
    clean = Minibatches(3)
    clean.add(torch.stack([gram(torch.from_numpy(x[1:])) for x in outputs]))
    outputs[1][0, 3] = np.nan
    broken = Minibatches(3)
    broken.add(torch.stack([gram(torch.from_numpy(x)) for x in outputs]))
    assert broken.dropped == 1
    torch.testing.assert_close(broken.matrix(), clean.matrix(), rtol=0, atol=1e-9)


def test_an_output_that_never_varies_is_like_nothing() -> None:
    sums = Minibatches(2)
    constant = torch.full((6, 10), 3.0)
    sums.add(torch.stack([gram(constant), gram(torch.randn(6, 10))]))
    assert bool(sums.matrix()[0].isnan().all())


def test_per_sample_equals_the_reference() -> None:
    batches = drifting((12,), blocks=3, width=16, offset=5.0)[0]
    outputs = [torch.from_numpy(x).reshape(2, 6, 16) for x in batches]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    sums = PerSample(3)
    sums.add(outputs, mask)
    first = biased_reference([x[0].numpy() for x in outputs])
    second = biased_reference([x[1, :4].numpy() for x in outputs])
    assert np.abs(sums.matrix().numpy() - (first + second) / 2).max() < 1e-6


def test_per_sample_leaves_examples_of_one_token_out() -> None:
    outputs = [torch.randn(2, 5, 8) for _ in range(2)]
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, 1:] = False
    sums = PerSample(2)
    sums.add(outputs, mask)
    assert (sums.used, sums.dropped) == (1, 1)
    assert bool(sums.matrix().isfinite().all())
