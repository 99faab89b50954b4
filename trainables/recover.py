"""Retraining: the stage that brings back what compression cost.

What comes out depends on the model, the settings, the data and the seed alone, so it is trained
once and then shared by every trial that gets there. An interrupted training goes on from its last
epoch, to the same result. Weights that are zero when it begins stay zero.
"""

import math
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from filelock import FileLock
from torch import Tensor

from trainables.bench.training.freeze import cut_neighbours, frozen
from trainables.bench.training.loop import Run, cast, give, tensors_of
from trainables.core.cache import Cache, digest
from trainables.core.fork import own
from trainables.core.lineage import source_version
from trainables.core.types import PreTrainedModel, Progress
from trainables.stage import Bench, Stage, Summary, Trained

Optimiser: TypeAlias = Literal["adamw", "adam", "sgd"]
Schedule: TypeAlias = Literal["constant", "linear", "cosine"]
Freeze: TypeAlias = Literal["none", "part"]
Precision: TypeAlias = Literal["full", "bfloat16"]
_ABANDONED = 7 * 24 * 3600  # seconds after which an unfinished training is given up
Training: TypeAlias = Generator[Progress, None, list[Progress]]


@dataclass(frozen=True)
class Recover(Stage):
    """Train the model on the data's `train` role."""

    epochs: int = 3
    lr: float = 5e-5
    optimiser: Optimiser = "adamw"
    schedule: Schedule = "linear"
    warmup: float = 0.0  # share of all steps over which lr rises from 0
    batch_size: int = 32
    weight_decay: float = 0.0
    freeze: Freeze = "none"  # part: only blocks next to cuts, and what is outside the blocks
    precision: Precision = "full"  # bfloat16: mixed, weights stay float32 while training
    patience: int = 0  # epochs without a better loss on `search` before stopping; 0: never
    watch: str = ""  # a metric to measure and report after every epoch, for a scheduler

    def __post_init__(self) -> None:
        for name, smallest in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            value = getattr(self, name)
            self.require(name, type(value) is int and value >= smallest, f"from {smallest} on")
        self.require("lr", 0 < self.lr < math.inf, "above 0")
        self.require("warmup", 0 <= self.warmup < 1, "0 <= warmup < 1")
        self.require("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        for name, kind in (
            ("optimiser", Optimiser),
            ("schedule", Schedule),
            ("freeze", Freeze),
            ("precision", Precision),
        ):
            self.require(name, getattr(self, name) in get_args(kind), " or ".join(get_args(kind)))

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Train, or take over what was trained before."""
        trained = None
        if self.freeze == "part":
            trained = cut_neighbours(bench.base.model, bench.model, bench.subject.history)
        how = self._identity(bench, trained)
        with frozen(bench.model, trained) as still:
            counts = {"frozen": len(still), "trained_parameters": _learnable(bench.model)}
        if bench.spec.naive:
            progress, ran = (yield from self._train(bench, trained, None)), True
        else:
            progress, ran = yield from self._shared(bench, trained, digest(how))
        counts |= {"epochs": len(progress), "epochs_run": len(progress) if ran else 0}
        return Summary((Trained(how),), counts, {"frozen_blocks": still}, label="retrained")

    def _identity(self, bench: Bench, trained: Sequence[int] | None) -> dict[str, Any]:
        """Everything that decides the result, the model aside."""
        settings = {k: v for k, v in asdict(self).items() if k not in ("freeze", "watch")}
        found = {**settings, "trained": trained, "seed": bench.seed}
        found["device"] = bench.device.type  # which rounds in its own way
        found["data"] = bench.data.fingerprint("train")
        if self.patience:
            found["search"] = bench.data.fingerprint("search")
        return found

    def _shared(
        self, bench: Bench, trained: Sequence[int] | None, identity: str
    ) -> Generator[Progress, None, tuple[list[Progress], bool]]:
        """What was trained by any trial before; else train, one worker at a time."""
        cache = bench.cache
        key = digest(bench.subject.lineage.key, identity, source_version(type(self)))
        path = cache.path("recovered", key, ".safetensors")
        with FileLock(path.with_name(f".{key}.training.lock")):
            weights = _known(cache, key)
            if weights is None:
                checkpoint = cache.path("checkpoints", key, ".pt")
                _sweep(checkpoint.parent)
                progress = yield from self._train(bench, trained, checkpoint)
                cache.store("recovered", key, progress)
                cache.tensors("recovered", key, lambda: tensors_of(bench.model))
                checkpoint.unlink(missing_ok=True)
                return progress, True
        # Memory-mapped weights are aligned otherwise, and convolutions round by alignment.
        give(bench.model, {name: value.clone() for name, value in weights.items()})
        progress = cache.find("recovered", key) or []
        yield from progress
        return progress, False

    def _train(
        self, bench: Bench, trained: Sequence[int] | None, checkpoint: Path | None
    ) -> Training:
        model = bench.model
        own(model)
        dtypes = cast(model, {})
        with frozen(model, trained) as still:
            run = Run(self, bench, still)
            if checkpoint is not None and checkpoint.exists():
                run.resume(checkpoint)
                yield from run.progress
            while not run.over():
                yield run.epoch()
                if checkpoint is not None and not run.over():
                    run.save(checkpoint)
            run.finish()
        cast(model.eval(), dtypes)
        return run.progress


def _known(cache: Cache, key: str) -> dict[str, Tensor] | None:
    """What was trained before, and held from now on; None if it was not, or was evicted."""
    if not cache.path("recovered", key, ".safetensors").exists():
        return None
    try:
        return cache.tensors("recovered", key, _gone)
    except FileNotFoundError:
        return None


def _sweep(folder: Path) -> None:
    """Delete what trials that nobody went on with have left behind."""
    for path in folder.glob("*.pt"):
        with suppress(FileNotFoundError):  # another worker sweeps too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _gone() -> dict[str, Tensor]:
    raise FileNotFoundError


def _learnable(model: PreTrainedModel) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
