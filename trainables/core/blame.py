"""Whose fault an error is: the candidate's, or that of the place where it happened to run."""

import re
from collections.abc import Iterator
from typing import Literal

import torch

from trainables.core.errors import UserError

Blame = Literal["candidate", "code", "process", "place"]
SPOILED = re.compile(
    r"CUDA error|device-side assert|illegal memory access|CUBLAS_STATUS|CUDNN_STATUS|CUDA_ERROR",
    re.IGNORECASE,
)
FULL = re.compile(r"No space left|Disk quota exceeded|Read-only file system", re.IGNORECASE)


def blame(error: BaseException) -> Blame:
    """Whose fault an error is.

    - candidate: what a stage or a metric refuses, and memory: it would happen anywhere;
    - place: files, disks, networks;
    - process: CUDA is spoiled, as nothing works after some errors until the process ends;
    - code: anything else; a mistake in somebody's code, or a process gone wrong.
    """
    if any(map(out_of_memory, causes(error))):
        return "candidate"
    if spoiled(error):
        return "process"
    if any(isinstance(one, OSError) or FULL.search(str(one)) for one in causes(error)):
        return "place"
    return "candidate" if isinstance(error, UserError) else "code"


def spoiled(error: BaseException) -> bool:
    """Whether no further work can be trusted in this process: a CUDA error that is more than a
    lack of memory that torch noticed itself."""
    found = [one for one in causes(error) if not isinstance(one, torch.OutOfMemoryError)]
    return any(SPOILED.search(f"{type(one).__name__}: {one}") for one in found)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in text or "not enough memory" in text or "alloc_failed" in text)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
