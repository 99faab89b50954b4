"""Trained once, shared by all: a training's result in the cache, and one worker at a time on it.

What comes out depends on what `key` names alone, so whoever gets there first trains, and all
others take over the weights and are told the same progress.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from trainables.bench.training.loop import TrainingSteps, give, learned_of
from trainables.core.alone import idle
from trainables.core.cache import Cache
from trainables.core.types import PreTrainedModel, Progress

_ABANDONED = 7 * 24 * 3600  # seconds after which an unfinished training is given up
_NOTES = ".notes"  # beside the weights in one file, so that neither is evicted without the other


@dataclass(frozen=True)
class Entry:
    """The place of one training in the cache, while its lock is held."""

    cache: Cache
    kind: str
    key: str

    @property
    def checkpoint(self) -> Path:
        """Where the training keeps what it has."""
        return self.cache.path("checkpoints", self.key, ".pt")

    def find(self) -> tuple[dict[str, Tensor], list[Progress]] | None:
        """(weights, progress) of who trained before, held from now on; None if nobody did, or if
        it was evicted."""
        found = self.cache.find_tensors(self.kind, self.key)
        if found is None:
            return None
        notes: list[Progress] = json.loads(bytes(found.pop(_NOTES).tolist()))
        return found, notes

    def keep(self, tensors: dict[str, Tensor], progress: list[Progress]) -> None:
        """Share what was trained."""
        notes = torch.tensor(list(json.dumps(progress).encode()), dtype=torch.uint8)
        self.cache.tensors(self.kind, self.key, lambda: {**tensors, _NOTES: notes})
        self.checkpoint.unlink(missing_ok=True)


@contextmanager
def once(cache: Cache, kind: str, key: str) -> Iterator[Entry]:
    """Inside, nobody else trains this."""
    entry = Entry(cache, kind, key)
    _sweep(entry.checkpoint.parent)
    lock = FileLock(cache.path(kind, f".{key}", ".training.lock"))
    with idle():
        lock.acquire()
    try:
        yield entry
    finally:
        lock.release()


def trained_once(
    cache: Cache,
    kind: str,
    key: str,
    model: PreTrainedModel,
    train: Callable[[Path], TrainingSteps],
) -> Generator[Progress, None, tuple[list[Progress], bool]]:
    """Let the model learn, or take over what was learned before.

    Args:
        kind: the cache's folder.
        key: names all that decides the result, the untrained model and the code included.
        train: trains the model in place, keeping its state at the path it is given.

    Yields:
        What `train` reports, or reported then.

    Returns:
        (the progress, whether it was trained just now).
    """
    with once(cache, kind, key) as entry:
        found = entry.find()
        if found is None:
            progress = yield from train(entry.checkpoint)
            entry.keep(learned_of(model), progress)
            return progress, True
    weights, progress = found
    # Memory-mapped weights are aligned otherwise, and convolutions round by alignment.
    give(model, {name: value.clone() for name, value in weights.items()})
    yield from progress
    return progress, False


def _sweep(folder: Path) -> None:
    """Delete what trainings that nobody went on with have left behind."""
    for path in folder.glob("*.pt"):
        with suppress(FileNotFoundError):  # another worker sweeps too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
