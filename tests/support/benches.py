"""A real bench around a tiny model and tensors made up on the spot: no files, no tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tests.support.planted import batch_for
from trainables.bench.bench import Bench
from trainables.core.cache import Cache, digest, digest_tensors
from trainables.core.lineage import Lineage
from trainables.core.spec import BenchSpec, DataSpec, ModelSpec, Role, Task
from trainables.core.types import Batch, Writing
from trainables.stage import Reading, Stage, Subject, Summary, drain

_SEEDS = {"calibration": 1, "train": 2, "search": 3, "held_out": 4}


@dataclass
class TinyData:
    """Batches of one model's kind for every role; `per_role` of them."""

    model: PreTrainedModel
    task: Task
    per_role: int = 3
    labels: tuple[str, ...] = ("a", "b", "c")
    made: dict[str, list[Batch]] = field(default_factory=dict)
    writing: Writing = field(default_factory=Writing)
    description: dict[str, str] = field(default_factory=lambda: {"windows": "made up"})

    def batches(self, role: Role) -> list[Batch]:
        if role not in self.made:
            seeds = [100 * _SEEDS[role] + number for number in range(self.per_role)]
            self.made[role] = [_easy(batch_for(self.model, seed=seed)) for seed in seeds]
        return self.made[role]

    def items(self, role: Role) -> Sequence[object]:
        return ()

    def by_batch(self, role: Role) -> list[Sequence[object]]:
        return [() for _ in self.batches(role)]

    def fingerprint(self, role: Role) -> str:
        return digest([digest_tensors(batch) for batch in self.batches(role)])


def _easy(batch: Batch) -> Batch:
    """Labels that can be learned: they follow from the input."""
    if "pixel_values" in batch:
        bright = batch["pixel_values"].mean((1, 2, 3)).argsort().argsort()
        return {**batch, "labels": (bright * 3 // len(bright)).long()}
    if batch["labels"].dim() == 1:
        return {**batch, "labels": batch["input_ids"][:, 0] % 3}
    return batch


def tiny_bench(
    folder: Path, model: PreTrainedModel, *, naive: bool = False, seed: int = 0
) -> Bench:
    """A bench whose cache lies in `folder`."""
    kinds: dict[str, Task] = {
        "vit": "image-classification",
        "resnet": "image-classification",
        "t5": "generation",
    }
    task = kinds.get(model.config.model_type, "classification")
    spec = BenchSpec(
        model=ModelSpec(id="tiny"),
        data=DataSpec(dataset="tiny", task=task),
        objectives=("accuracy",),
        seed=seed,
        cache=str(folder),
        naive=naive,
    )
    base = Lineage(digest_tensors(model.state_dict()))
    reading = Reading(None, TinyData(model, task), ("a", "b", "c"))
    return Bench(spec, Subject(model, base, reading), torch.device("cpu"), Cache(folder))


def reading_of(bench: Bench, data: TinyData) -> Bench:
    """The same bench with other data."""
    reading = replace(bench.base.reading, data=data)
    return replace(bench, base=replace(bench.base, reading=reading))


def do(bench: Bench, *stages: Stage) -> list[Summary]:
    """Run stages to their ends, as a trial does."""
    found = []
    for stage in stages:
        summary = drain(stage.on(bench))
        bench.subject = bench.subject.after(stage, summary)
        found.append(summary)
    return found
