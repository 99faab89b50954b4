"""What a student is taught by, as pure functions on tensors.

Computed in float32, or in the inputs' own dtype where that is wider.

Source: "Distilling the Knowledge in a Neural Network", Hinton et al., 2015 (arXiv 1503.02531);
hidden states through a learned projection: "TinyBERT", Jiao et al., EMNLP 2020 (arXiv 1909.10351);
attention as divergences: "MiniLM", Wang et al., NeurIPS 2020 (arXiv 2002.10957).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from trainables.core.types import IGNORED

_SMALLEST = 1e-12  # what a probability is taken for in a logarithm


def soft_loss(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    temperature: float,
) -> Float[Tensor, " rows"]:
    """T^2 KL(teacher || student) of each row, both softened by the temperature T."""
    said = F.log_softmax(_wide(student) / temperature, dim=-1)
    taught = F.log_softmax(_wide(teacher) / temperature, dim=-1)
    return temperature**2 * (taught.exp() * (taught - said)).sum(-1)


def kd_loss(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    labels: Int[Tensor, " rows"],
    temperature: float,
    alpha: float,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean over rows of alpha T^2 KL + (1 - alpha) CE; of T^2 KL alone without a label (-100)."""
    soft = soft_loss(student, teacher, temperature)
    options = {"ignore_index": IGNORED, "label_smoothing": smoothing, "reduction": "none"}
    hard = F.cross_entropy(_wide(student), labels, **options)  # type: ignore[arg-type]
    labelled = labels != IGNORED
    return torch.where(labelled, alpha * soft + (1 - alpha) * hard, soft).mean()


def hidden_loss(
    student: Float[Tensor, "rows positions width"],
    teacher: Float[Tensor, "rows positions width"],
    mask: Bool[Tensor, "rows positions"],
) -> Float[Tensor, ""]:
    """Mean squared difference over the real positions."""
    gaps = (_wide(student) - _wide(teacher)).square().mean(-1)
    return gaps[mask].mean()


def pooled(
    states: Float[Tensor, "rows positions width"], mask: Bool[Tensor, "rows positions"]
) -> Float[Tensor, "rows 1 width"]:
    """The mean over the real positions."""
    kept = mask[..., None].to(states.dtype)
    return (states * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)


def attention_loss(
    student: Float[Tensor, "rows heads positions positions"],
    teacher: Float[Tensor, "rows other_heads positions positions"],
    mask: Bool[Tensor, "rows positions"],
) -> Float[Tensor, ""]:
    """Mean KL(teacher || student) of where each real position looks, averaged over the heads."""
    said, taught = _wide(student).mean(1), _wide(teacher).mean(1)
    gaps = taught * (taught.clamp(min=_SMALLEST).log() - said.clamp(min=_SMALLEST).log())
    return gaps.sum(-1)[mask].mean()


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
