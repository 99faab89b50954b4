"""How similar the outputs of two blocks are: linear CKA, in percent (Kornblith et al., ICML 2019).

Two forms whose numbers do not compare: over minibatches and unbiased (Nguyen et al., ICLR 2021),
or per example and biased. Everything is summed in float64, since nearly equal outputs cancel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

SMALLEST = 4  # examples: an unbiased, centred Gram matrix of three is identically zero
_CHUNK = 1 << 16  # features turned into float64 at a time


def gram(rows: Float[Tensor, "n features"]) -> Float64[Tensor, "n n"]:
    """All inner products between examples."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _CHUNK):
        wide = rows[:, start : start + _CHUNK].double()
        total += wide @ wide.T
    return total


def unbiased(grams: Float64[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch n n"]:
    """Gram matrices without their diagonal, U-centred."""
    n = grams.shape[-1]
    off = grams - torch.diag_embed(grams.diagonal(dim1=-2, dim2=-1))
    sums = off.sum(-1)
    total = sums.sum(-1)[..., None, None]
    centred = off - (sums[..., :, None] + sums[..., None, :]) / (n - 2)
    centred = centred + total / ((n - 1) * (n - 2))
    return _clean(centred - torch.diag_embed(centred.diagonal(dim1=-2, dim2=-1)), grams)


def biased(grams: Float64[Tensor, "*batch n n"]) -> Float64[Tensor, "*batch n n"]:
    """Gram matrices centred by rows and by columns."""
    rows = grams.mean(-1, keepdim=True)
    columns = grams.mean(-2, keepdim=True)
    return _clean(grams - rows - columns + grams.mean((-2, -1), keepdim=True), grams)


def _clean(centred: Tensor, grams: Tensor) -> Tensor:
    """Zero where only rounding is left: scaled up, it would look like structure."""
    noise = 1e-14 * grams.abs().amax((-2, -1), keepdim=True)
    return torch.where(centred.abs() > noise, centred, 0.0)


def products(centred: Float64[Tensor, "blocks n n"]) -> Float64[Tensor, "blocks blocks"]:
    """The inner products of all pairs of centred Gram matrices."""
    flat = centred.flatten(1)
    return flat @ flat.T


def percent(inner: Float64[Tensor, "blocks blocks"]) -> Float64[Tensor, "blocks blocks"]:
    """CKA from inner products; NaN for a block whose output does not vary."""
    norms = inner.diagonal()
    scale = torch.where(norms > 0, norms, torch.nan).sqrt()
    return 100 * inner / (scale[:, None] * scale[None, :])


@dataclass
class Minibatches:
    """Unbiased CKA, summed over minibatches of one set of blocks."""

    blocks: int
    used: int = field(default=0, init=False)  # examples
    dropped: int = field(default=0, init=False)
    _inner: Tensor | None = field(default=None, init=False)

    def add(self, grams: Float64[Tensor, "blocks n n"]) -> None:
        """One minibatch; examples with NaN are left out, and all of them where few remain."""
        size = grams.shape[-1]
        finite = grams.diagonal(dim1=-2, dim2=-1).isfinite().all(0)
        left = int(finite.sum())
        if left < SMALLEST:
            self.dropped += size
            return
        self.used, self.dropped = self.used + left, self.dropped + size - left
        inner = products(unbiased(grams[:, finite][:, :, finite]))
        self._inner = inner if self._inner is None else self._inner + inner

    def matrix(self) -> Float64[Tensor, "blocks blocks"]:
        """CKA of every pair of blocks; all NaN before any minibatch was used."""
        if self._inner is None:
            return torch.full((self.blocks, self.blocks), torch.nan, dtype=torch.float64)
        return percent(self._inner)


@dataclass
class PerSample:
    """Biased CKA over the tokens of each example, averaged over examples."""

    blocks: int
    used: int = field(default=0, init=False)
    dropped: int = field(default=0, init=False)
    _sum: Tensor | None = field(default=None, init=False)

    def add(
        self,
        outputs: Sequence[Float[Tensor, "n tokens width"]],
        mask: Bool[Tensor, "n tokens"],
    ) -> None:
        """The outputs of all blocks for some examples; a NaN leaves its example out."""
        for example, real in enumerate(mask):
            grams = torch.stack([gram(output[example][real]) for output in outputs])
            cka = percent(products(biased(grams)))
            if not bool(cka.isfinite().all()):
                self.dropped += 1
                continue
            self.used += 1
            self._sum = cka if self._sum is None else self._sum + cka

    def matrix(self) -> Float64[Tensor, "blocks blocks"]:
        """The average over examples; all NaN before any example was used."""
        if self._sum is None:
            return torch.full((self.blocks, self.blocks), torch.nan, dtype=torch.float64)
        return self._sum / self.used
