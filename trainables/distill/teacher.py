"""What the teacher says, asked once: its logits on the training rows, kept for all trials.

They depend on the teacher, the rows as it reads them and the machine, on no setting of a student,
so they lie in the cache under those. Logits over a vocabulary that would fill the disk are asked
for anew at every step instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.bench.models.batches import reads_targets, ready
from trainables.bench.training.loop import deterministic
from trainables.core.cache import digest
from trainables.core.lineage import code
from trainables.core.types import IGNORED, Batch, PreTrainedModel, Stats
from trainables.stage import Bench, Subject

SHARE = 8  # one part in so many of the cache is the most that one teacher's logits may take


@dataclass(frozen=True)
class Said:
    """A teacher's logits, the rows of one example after those of another."""

    logits: Tensor  # (rows, classes)
    starts: tuple[int, ...]  # of each example, and the end

    def of(self, examples: Sequence[int]) -> Tensor:
        """The rows of these examples, in this order."""
        return torch.cat([self.logits[self.starts[n] : self.starts[n + 1]] for n in examples])


def rows_of(model: PreTrainedModel, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, labels) to compare, a row each: of every example, or of every predicted token."""
    if labels.dim() == 1:
        return logits, labels
    if not reads_targets(model):
        logits, labels = logits[:, :-1], labels[:, 1:]
    kept = (labels != IGNORED).to(logits.device)
    return logits[kept], labels.to(logits.device)[kept]


def ask(bench: Bench, teacher: Subject, batches: Sequence[Batch], what: str) -> Said | None:
    """The teacher's logits on all examples of the batches; None where they would be too large.

    Args:
        what: identifies the batches.
    """
    if _size(teacher.model, batches) > bench.cache.limit // SHARE:
        return None

    def make() -> Stats:
        return _logits(teacher.model, batches)

    if bench.spec.naive:
        found = make()
    else:
        import transformers  # here: spaces name methods, and load no transformers

        where = (bench.device.type, str(teacher.model.dtype), bench.spec.data.max_length)
        key = digest(code(), transformers.__version__, teacher.lineage.key, what, *where)
        found = bench.cache.tensors("teacher", key, make)
    return Said(found["logits"], tuple(found["starts"].tolist()))


@torch.no_grad()
def _logits(model: PreTrainedModel, batches: Sequence[Batch]) -> Stats:
    logits: list[Tensor] = []
    counts: list[int] = [0]
    with deterministic(model.device):
        for batch in batches:
            found = model(**ready(model, batch)).logits
            rows, _ = rows_of(model, found, batch["labels"])
            logits.append(rows.cpu())
            counts += _counts(model, batch["labels"])
    return {"logits": torch.cat(logits), "starts": torch.tensor(counts).cumsum(0)}


def _counts(model: PreTrainedModel, labels: Tensor) -> list[int]:
    """How many rows each example has."""
    if labels.dim() == 1:
        return [1] * len(labels)
    predicted = labels if reads_targets(model) else labels[:, 1:]
    counts: list[int] = (predicted != IGNORED).sum(1).tolist()
    return counts


def _size(model: PreTrainedModel, batches: Sequence[Batch]) -> int:
    """The bytes of all logits; few for classes."""
    if batches[0]["labels"].dim() == 1:
        return 0
    rows = sum(sum(_counts(model, batch["labels"])) for batch in batches)
    width: int = model.config.get_text_config().vocab_size
    size: int = rows * width * next(model.parameters()).element_size()
    return size
