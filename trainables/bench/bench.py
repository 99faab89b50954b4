"""The bench: the model, the data, the device and the cache that a trial works on.

A worker opens one bench and keeps it; each trial works on a `fork`. Everything a trial could
share with others goes through here: calibration, retrained weights and metrics, all keyed by the
lineage of the model they belong to. With `spec.naive` nothing is shared.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from trainables.bench.metrics.catalogue import is_timed
from trainables.bench.metrics.evaluate import Measure, measure_items
from trainables.bench.metrics.race import Race
from trainables.bench.models.batches import ready
from trainables.bench.opening import device_name, open_subject
from trainables.bench.prefix.calibrate import ByBlock, calibrated
from trainables.bench.prefix.forward import Forward, Prefixes, Work
from trainables.core.cache import Cache, digest
from trainables.core.lineage import Lineage, code, reference_version, source_version
from trainables.core.scores import Scores, from_text
from trainables.core.spec import BenchSpec, ModelSpec, Role
from trainables.core.types import Batch, Stats
from trainables.stage import Calibrates, Measured, Method, Rows, Subject


@dataclass
class Bench:
    """What a stage sees. `subject` is the trial's own; `base` belongs to all of them."""

    spec: BenchSpec
    base: Subject
    device: torch.device
    cache: Cache
    by: str = ""  # whom measurements are noted for: "study/number"
    others: dict[str, Subject] = field(default_factory=dict)  # opened so far, shared by all forks
    prefixes: Prefixes | None = None  # what models have in common, shared by all forks
    work: Work = field(init=False, default_factory=Work)  # of this fork's calibrating and measuring
    subject: Subject = field(init=False)

    def __post_init__(self) -> None:
        self.subject = self.base.fork()
        salt = digest(code(), hardware(self), self.spec.model.dtype)
        known = self.prefixes
        if known is None or known.base is not self.base or known.salt != salt:
            self.prefixes = Prefixes(self.base, self.cache, salt)

    @property
    def model(self) -> PreTrainedModel:
        """The trial's own model, as it is now."""
        return self.subject.model

    @property
    def data(self) -> Rows:
        """The rows as that model reads them."""
        return self.subject.reading.data

    @property
    def processor(self) -> Any:
        """What it reads them with."""
        return self.subject.reading.processor

    @property
    def lineage(self) -> Lineage:
        """That model's identity."""
        return self.subject.lineage

    @property
    def seed(self) -> int:
        return self.spec.seed

    def fork(self, by: str = "") -> "Bench":
        """The same bench with a fresh fork of the base model, and its lineage."""
        return dataclasses.replace(self, by=by)

    def open(self, model: ModelSpec) -> Subject:
        """Another model, ready to be a subject: loaded once per worker, reading the bench's rows
        in its own way. Raises UserError, as for the bench's own model."""
        key = model.model_dump_json()
        if key not in self.others:
            rows = {"batch_size": self.base.reading.data.batch_size}  # the same side by side
            data = self.spec.data.model_copy(update=rows)
            spec = self.spec.model_copy(update={"model": model, "data": data})
            self.others[key] = open_subject(spec, self.device, self.cache)
        found = self.others[key]
        return dataclasses.replace(found.fork(), start=found.model)

    def batches(self, role: Role) -> Iterator[Batch]:
        """A role's batches, with labels, on the device and in the model's dtype."""
        for batch in self.data.batches(role):
            yield ready(self.model, batch, labels=True)

    def stats(self, method: type[Calibrates]) -> Stats:
        """What a method's calibration measures on the model as it is now."""
        if issubclass(method, Method) and not method.measures():
            return {}
        if self.spec.naive:
            return method.calibrate(self.model, self.batches("calibration"))
        key = digest(
            source_version(method),
            self.subject.lineage.key,
            self.data.fingerprint("calibration"),
            transformers.__version__,
        )
        return self.cache.tensors("stats", key, lambda: self._calibrated(method))

    def _calibrated(self, method: type[Calibrates]) -> Stats:
        if not issubclass(method, ByBlock):
            return method.calibrate(self.model, self.batches("calibration"))
        rows, source = self.data.batches("calibration"), source_version(method)
        return calibrated(method, source, self._shared, self.subject, rows, self.work)

    @property
    def _shared(self) -> Prefixes:
        assert self.prefixes is not None
        return self.prefixes

    def measure(
        self, names: Sequence[str], role: Role = "search", race: Race | None = None
    ) -> Measured:
        """The named metrics of the model as it is now, on a role.

        A model that was measured before is not measured again, except for metrics that are times or
        memory: those belong to this process at this hour, and each trial takes its own.

        Args:
            race: what the model runs against, and may lose to before it is measured whole.

        Raises:
            OutOfRace: the model cannot win.
        """
        keys = {} if self.spec.naive else {n: self._key(n, role) for n in names if not is_timed(n)}
        entries = {name: self.cache.find("metrics", key) for name, key in keys.items()}
        known = {name: entry for name, entry in entries.items() if entry is not None}
        found = {name: _read(name, entry) for name, entry in known.items()}
        missing = [name for name in names if name not in known]
        items = self.base.reading.data.fingerprint(role)  # the same rows, whoever reads them
        for name, one in self._measured(missing, role, race, found).items():
            found[name] = one
            if name in keys:
                self.cache.store("metrics", keys[name], _entry(name, one, items, self.by))
        everything = known and len(known) == len(keys)
        first = str(next(iter(known.values()))["by"]) if everything else ""
        return Measured(
            {name: found[name].value for name in names},
            None if first in ("", self.by) else first,
            Scores(items, {n: part for n in names if (part := found[n].scores) is not None}),
            {n: one.alone for n, one in found.items() if one.alone is not None},
        )

    def _measured(
        self, names: Sequence[str], role: Role, race: Race | None, found: Mapping[str, Measure]
    ) -> dict[str, Measure]:
        if not names:
            return {}
        known = {name: one.value for name, one in found.items()}
        return measure_items(self, names, role, race, known, self._forward(role))

    def _forward(self, role: Role) -> Forward | None:
        """How the model runs on a role's batches; None: all of it."""
        if self.spec.naive:
            return None
        return self._shared.forward(self.subject, self.data.batches(role), self.work)

    def passes(self) -> dict[str, Any]:
        """For records: how many block-forwards calibrating and measuring took so far, of how many
        whole passes would take; and why passes are whole, where they are."""
        why = "" if self.spec.naive else self._shared.why
        return {"done": self.work.done, "whole": self.work.whole, "why": why}

    def _key(self, name: str, role: Role) -> str:
        return digest(
            self.subject.lineage.key,
            self.data.fingerprint(role),
            metric_version(name, self.spec.metrics),
            {**hardware(self), "dtype": self.spec.model.dtype},
        )


def _entry(name: str, one: Measure, items: str, by: str) -> dict[str, Any]:
    """What the cache keeps of a metric."""
    scored = {} if one.scores is None else {"scores": Scores(items, {name: one.scores}).text()}
    return {"value": one.value, "by": by} | scored


def _read(name: str, entry: Mapping[str, Any]) -> Measure:
    scores = from_text(entry["scores"])[name] if "scores" in entry else None
    return Measure(float(entry["value"]), scores)


def hardware(bench: Bench) -> dict[str, Any]:
    """Where numbers come from."""
    return {
        "device": device_name(bench.device, bench.spec.cards),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def metric_version(name: str, custom: Mapping[str, str]) -> str:
    """A metric's name with the version of its code: ours, and a user's own with all it imports."""
    if name not in custom:
        return f"{name}@{code()}"
    return f"{name}@{reference_version(custom[name])}"
