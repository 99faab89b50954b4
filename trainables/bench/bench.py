"""The bench: the model, the data, the device and the cache that a trial works on.

A worker opens one bench and keeps it; each trial works on a `fork`. Everything a trial could
share with others goes through here: calibration, retrained weights and metrics, all keyed by the
lineage of the model they belong to. With `spec.naive` nothing is shared.
"""

import dataclasses
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from trainables.core.cache import Cache, digest
from trainables.bench.data.roles import Data, load_data
from trainables.bench.metrics.evaluate import load_metric, measure_all
from trainables.bench.models.fork import fork
from trainables.core.lineage import Lineage, code_version, fingerprint
from trainables.bench.models.load import is_encoder_decoder, load_model, load_processor, locate
from trainables.recover import trained
from trainables.core.spec import BenchSpec, Role
from trainables.stage import Batch, Method, Stage, Stats, Summary


@dataclass
class Bench:
    """What a stage sees. `model` is the trial's own; `base` belongs to all of them."""

    spec: BenchSpec
    base: PreTrainedModel
    processor: Any
    data: Data
    device: torch.device
    cache: Cache
    lineage: Lineage
    role: Role = "search"
    model: PreTrainedModel = field(init=False)
    history: list[tuple[Stage, Summary]] = field(default_factory=list)
    by: str = ""  # whom measurements are noted for

    def __post_init__(self) -> None:
        self.model = fork(self.base)

    @property
    def seed(self) -> int:
        return self.spec.seed

    def fork(self) -> "Bench":
        """The same bench with a fresh fork of the base model and no history."""
        return dataclasses.replace(self, history=[])

    def batches(self, role: Role) -> Iterator[Batch]:
        """A role's batches, on the device."""
        for batch in self.data.batches(role):
            yield {name: value.to(self.device) for name, value in batch.items()}

    def stats(self, method: type[Method]) -> Stats:
        """What the method's calibration measures on the model as it is now."""
        if method.calibrate.__func__ is Method.calibrate.__func__:  # type: ignore[attr-defined]
            return {}
        if self.spec.naive:
            return method.calibrate(self.model, self.batches("calibration"))
        key = digest(
            method.__qualname__,
            source_version(method),
            self.lineage.key,
            self.data.fingerprint("calibration"),
        )
        return self.cache.tensors(
            "stats", key, lambda: method.calibrate(self.model, self.batches("calibration"))
        )

    def advance(self, stage: Stage, summary: Summary) -> None:
        """Note that a stage was done to the model."""
        self.history.append((stage, summary))
        self.lineage = self.lineage.then(summary.effect)

    def measure(self, names: Sequence[str], by: str = "") -> tuple[dict[str, float], str | None]:
        """The named metrics of the model as it is now, on `role`.

        A model that was measured before is not measured again.

        Args:
            by: who asks ("study/number"), noted with what is measured; else who asked last.

        Returns:
            The metrics, and None if any was measured here, else who measured them.
        """
        by = self.by = by or self.by
        if self.spec.naive:
            return measure_all(self, names), None
        key = digest(self.lineage.key, self.data.fingerprint(self.role), _conditions(self))
        known = self.cache.find("metrics", key) or {}
        wanted = {name: metric_version(name, self.spec.metrics) for name in names}
        missing = [name for name in names if wanted[name] not in known]
        if missing:
            for name, value in measure_all(self, missing).items():
                known[wanted[name]] = {"value": value, "by": by}
            self.cache.store("metrics", key, known)
        found = {name: float(known[wanted[name]]["value"]) for name in names}
        first = str(known[wanted[names[0]]]["by"])
        return found, None if missing or first == by else first


def open_bench(spec: BenchSpec) -> Bench:
    """Load everything a spec names.

    Raises PlanError, DataError or AssetError, each with one message for the user.
    """
    torch.set_num_threads(spec.threads)
    cache_folder = Cache(Path(spec.cache), spec.cache_gb)
    folder = locate(spec.model)
    processor = load_processor(folder, spec.data.task)
    data = load_data(spec.data, processor, spec.seed, encoder_decoder=is_encoder_decoder(folder))
    device = torch.device(spec.device)
    model = load_model(folder, spec.model, spec.data.task, data.labels).to(device)
    base = digest(fingerprint(folder, cache_folder), spec.model.dtype, data.labels)
    bench = Bench(spec, model, processor, data, device, cache_folder, Lineage(base))
    return bench if spec.model.train is None else trained(bench, spec.model.train)


def hardware(bench: Bench) -> dict[str, Any]:
    """Where numbers come from."""
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _conditions(bench: Bench) -> Mapping[str, Any]:
    return {**hardware(bench), "code": code(), "dtype": bench.spec.model.dtype}


@cache
def code() -> str:
    """`code_version`, read once per process."""
    return code_version()


def source_version(thing: Any) -> str:
    """The code under trainables/, and the file that defines a user's own class or function."""
    path = inspect.getsourcefile(thing)
    return digest(code(), Path(path).read_text() if path else "")


def metric_version(name: str, custom: Mapping[str, str]) -> str:
    """A metric's name, with the version of its code where it is the user's own."""
    if name not in custom:
        return name
    return f"{name}@{source_version(load_metric(custom[name]))}"
