"""What saved models do in a process of their own: what one predicts, what it holds in memory, and
how fast it is beside another, which takes turns with it.

Run as a module, with the path of a request as its argument; prints the answer as JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.bench.metrics.cost import own_bytes
from trainables.bench.models.batches import ready
from trainables.core.types import Batch, PreTrainedModel

_LEAST, _MOST, _SECONDS = 5, 40, 4.0


@dataclass(frozen=True)
class SavedModel:
    """A folder, the Python that loads it as `model`, and what it is to read."""

    folder: Path
    load: str  # with `{folder}` in it
    batches: Sequence[Batch]


@dataclass(frozen=True)
class Looked:
    """What a fresh process saw of a saved model beside another one.

    Attributes:
        predicted: of each batch, the highest logit's place, at every position.
        memory: bytes of the weights once loaded, of the other one first.
        seconds: the median forward pass on a first batch, likewise.
        speed: how many times as fast as the other: the median over turns.
    """

    predicted: list[list[int]]
    memory: tuple[int, int]
    seconds: tuple[float, float]
    speed: float


def look(other: SavedModel, one: SavedModel, device: torch.device, threads: int) -> Looked:
    """Load both in a fresh process and let them take turns.

    Raises PlanError where one does not load.
    """
    from trainables.bench.models.verify import run_fresh

    with tempfile.TemporaryDirectory(prefix="rayduce-") as place:
        request = {
            "models": [
                _written(saved, Path(place, str(n))) for n, saved in enumerate((other, one))
            ],
            "device": str(device),
            "threads": threads,
        }
        Path(place, "request.json").write_text(json.dumps(request), encoding="utf-8")
        found = run_fresh(["-m", "trainables.bench.metrics.side_by_side", f"{place}/request.json"])
    memory, seconds = tuple(found["memory"]), tuple(found["seconds"])
    return Looked(found["predicted"], memory, seconds, found["speed"])


def _written(saved: SavedModel, place: Path) -> dict[str, str]:
    """A model's part of the request, its batches in a file."""
    tensors = {
        f"{number}/{name}": value.detach().cpu().contiguous()
        for number, batch in enumerate(saved.batches)
        for name, value in batch.items()
    }
    save_file(tensors, place)
    return {"load": saved.load.replace("{folder}", repr(str(saved.folder))), "batches": str(place)}


@torch.no_grad()
def predictions(model: PreTrainedModel, batches: Sequence[Batch]) -> list[list[int]]:
    """What a model predicts for each batch, at every position."""
    every = [model(**ready(model, batch)).logits.argmax(-1).flatten() for batch in batches]
    return [found.tolist() for found in every]


# -- in the fresh process --------------------------------------------------------------------------


def _answer(request: dict[str, Any]) -> Looked:
    torch.set_num_threads(request["threads"])
    models = [_loaded(one["load"]).to(request["device"]) for one in request["models"]]
    read = [_read(one["batches"]) for one in request["models"]]
    times = [[_timed(m, b[0]) for m, b in zip(models, read, strict=True)]]  # the first warms up
    began = time.perf_counter()
    while len(times) <= _LEAST or (
        len(times) <= _MOST and time.perf_counter() - began < 2 * _SECONDS
    ):
        times.append([_timed(m, b[0]) for m, b in zip(models, read, strict=True)])
    turns = times[1:]
    medians = [statistics.median(turn[n] for turn in turns) for n in range(2)]
    return Looked(
        predicted=predictions(models[1], read[1]),
        memory=(own_bytes(models[0]), own_bytes(models[1])),
        seconds=(medians[0], medians[1]),
        speed=statistics.median(other / one for other, one in turns),
    )


def _loaded(load: str) -> PreTrainedModel:
    scope: dict[str, Any] = {}
    exec(load, scope)  # the very lines that the folder's card shows
    model: PreTrainedModel = scope["model"].eval()
    return model


def _read(path: str) -> list[Batch]:
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(path).items():
        number, _, key = name.partition("/")
        found.setdefault(int(number), {})[key] = value
    return [found[number] for number in sorted(found)]


@torch.no_grad()
def _timed(model: Any, batch: Batch) -> float:
    inputs = ready(model, batch)
    started = time.perf_counter()
    model(**inputs)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_answer(json.loads(Path(sys.argv[1]).read_text("utf-8"))))))
