"""What a saved model costs: measured in the fresh process that loads it, and on its files.

What a method saves on paper is not what a form of the model saves: zeros take as much space and
time as other numbers, a padded layer as much as a wide one.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainables.bench.metrics.cost import count_parameters, own_bytes, pass_seconds, peak_memory
from trainables.core.types import Batch

# Run where the model is loaded and `given` is a batch: `prove(..., measure=MEASURE)`.
MEASURE = """
from trainables.bench.metrics.artefact import measure
measured = measure(model, given)
"""
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".npz"}
REAL = 0.005  # a smaller change of a size is none


@dataclass(frozen=True)
class Cost:
    """One form of a model.

    Attributes:
        parameters: weights and biases, tied ones once, zeros included.
        bytes: of its files of weights.
        memory: bytes of weights, buffers and what a forward pass adds at its highest.
        latency_ms: of a forward pass, the median.
        fast_ms: what a tenth of the passes takes at most.
        slow_ms: what nine tenths take at most.
    """

    parameters: int
    bytes: int
    memory: int
    latency_ms: float
    fast_ms: float
    slow_ms: float

    def again(self, later: "Cost") -> "Cost":
        """The same form measured twice: the spread of both, and the quicker median."""
        return replace(
            self,
            latency_ms=min(self.latency_ms, later.latency_ms),
            fast_ms=min(self.fast_ms, later.fast_ms),
            slow_ms=max(self.slow_ms, later.slow_ms),
        )

    def saves(self, before: "Cost") -> tuple[str, ...]:
        """What is really less than before: sizes by half a percent or more, latency where nine
        tenths of the passes are faster than nine tenths of those before."""
        sizes = ("parameters", "bytes", "memory")
        less = [n for n in sizes if getattr(self, n) <= (1 - REAL) * getattr(before, n)]
        return (*less, *(("latency",) if self.slow_ms < before.fast_ms else ()))


@torch.no_grad()
def measure(model: Any, inputs: Batch) -> dict[str, float]:
    """All of `Cost` that shows once a model is loaded; `inputs` are on its device."""
    peak = peak_memory(model, inputs)
    times = sorted(1e3 * one for one in pass_seconds(model, inputs))
    tenth = len(times) // 10
    return {
        "parameters": count_parameters(model),
        "memory": peak if model.device.type == "cuda" else own_bytes(model) + peak,
        "latency_ms": statistics.median(times),
        "fast_ms": times[tenth],
        "slow_ms": times[-1 - tenth],
    }


def cost(measured: Mapping[str, float], folder: Path, besides: str = "") -> Cost:
    """What was measured, with the files of the form.

    Args:
        besides: a sub-folder that holds another form.
    """
    sizes = ("parameters", "memory")
    found = {name: int(value) if name in sizes else value for name, value in measured.items()}
    return Cost(bytes=weight_bytes(folder, besides), **found)  # type: ignore[arg-type]


def weight_bytes(folder: Path, besides: str = "") -> int:
    """The size of all files of weights in a folder and below."""
    other = folder / besides
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.suffix in WEIGHTS and not (besides and path.is_relative_to(other))
    )
