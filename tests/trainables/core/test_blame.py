"""Whose fault an error is: the candidate's, the place's, the process's, or some code's."""

import errno

import pytest
import torch

from trainables.core.blame import blame, spoiled
from trainables.core.errors import MetricError, PlanError

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "whose", "gone"),
    [
        (PlanError("no block [9]"), "candidate", False),
        (MetricError("perplexity is nan"), "candidate", False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "candidate", False),
        (MemoryError(), "candidate", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "candidate", False),
        (RuntimeError("CUDA error: out of memory"), "candidate", True),
        (RuntimeError(ASSERT), "process", True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling"), "process", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "process", True),
        (raised_from(MetricError("accuracy"), RuntimeError(ASSERT)), "process", True),
        (OSError(errno.ENOSPC, "No space left on device"), "place", False),
        (PermissionError("results"), "place", False),
        (FileNotFoundError("scores.txt"), "place", False),
        (RuntimeError("SafetensorError: I/O error: No space left on device"), "place", False),
        (raised_from(PlanError("no weights"), OSError("stale file handle")), "place", False),
        (TypeError("unsupported operand"), "code", False),
        (RuntimeError("The size of tensor a (3) must match"), "code", False),
    ],
)
def test_an_error_is_somebodys(error: Exception, whose: str, gone: bool) -> None:
    assert (blame(error), spoiled(error)) == (whose, gone)
