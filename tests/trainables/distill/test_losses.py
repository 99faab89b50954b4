"""The losses of distillation, against the same in float64 written anew, and by hand."""

import math

import numpy as np
import pytest
import torch

from trainables.distill.losses import attention_loss, hidden_loss, kd_loss, pooled, soft_loss


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def reference(
    student: np.ndarray, teacher: np.ndarray, labels: list[int], heat: float, alpha: float
) -> tuple[float, np.ndarray]:
    """The loss, and its gradient as the textbooks derive it, a row at a time."""
    total, slopes = 0.0, np.zeros_like(student)
    for row, (said, taught, label) in enumerate(zip(student, teacher, labels, strict=True)):
        cool, aim, plain = softmax(said / heat), softmax(taught / heat), softmax(said)
        share = 1.0 if label == -100 else alpha
        total += share * heat**2 * sum(p * math.log(p / q) for p, q in zip(aim, cool, strict=True))
        slopes[row] = share * heat * (cool - aim)
        if label != -100:
            total -= (1 - alpha) * math.log(plain[label])
            slopes[row] += (1 - alpha) * (plain - np.eye(len(said))[label])
    return total / len(labels), slopes / len(labels)


@pytest.mark.parametrize("labels", [[0, 3, 2, 1, 1], [0, -100, 2, -100, 1], [-100] * 5])
@pytest.mark.parametrize(("heat", "alpha"), [(1.0, 0.5), (4.0, 0.9), (8.0, 1.0), (2.5, 0.0)])
@pytest.mark.parametrize(
    ("dtype", "gap"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_loss_and_gradients_are_the_references(
    labels: list[int], heat: float, alpha: float, dtype: torch.dtype, gap: float
) -> None:
    draw = torch.Generator().manual_seed(int(heat))
    student, teacher = (3 * torch.randn(5, 4, generator=draw).to(dtype) for _ in range(2))
    student.requires_grad_()
    loss = kd_loss(student, teacher, torch.tensor(labels), heat, alpha)
    loss.backward()
    wanted, slopes = reference(
        student.detach().double().numpy(), teacher.double().numpy(), labels, heat, alpha
    )
    assert float(loss.detach()) == pytest.approx(wanted, abs=gap, rel=gap)
    assert np.allclose(student.grad.double().numpy(), slopes, atol=gap, rtol=gap)


def test_who_agrees_with_the_teacher_loses_nothing() -> None:
    logits = torch.randn(3, 5)
    assert torch.allclose(soft_loss(logits + 7, logits, 3.0), torch.zeros(3), atol=1e-5)


def test_hidden_states_by_hand() -> None:
    mine = torch.tensor([[[1.0, 2.0], [5.0, 5.0]], [[0.0, 0.0], [3.0, 1.0]]])
    theirs = torch.zeros(2, 2, 2)
    mask = torch.tensor([[True, False], [True, True]])
    # (1 + 4) / 2, 0, (9 + 1) / 2 over three real positions
    assert float(hidden_loss(mine, theirs, mask)) == pytest.approx((2.5 + 0 + 5) / 3)
    assert pooled(mine, mask).tolist() == [[[1.0, 2.0]], [[1.5, 0.5]]]


def test_attention_by_hand() -> None:
    mine = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [1.0, 0.0]]]])  # two heads
    theirs = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # one
    assert float(attention_loss(mine, theirs, torch.tensor([[True, True]]))) == pytest.approx(
        math.log(2) / 2
    )
    assert float(attention_loss(mine, theirs, torch.tensor([[False, True]]))) == 0.0
