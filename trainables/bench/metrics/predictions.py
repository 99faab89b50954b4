"""The passes over a role's data that metrics need, each made once however many need it.

Log-likelihoods are taken in float32 from logits of the model's own dtype, a slice at a time, and
summed in float64.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.bench.metrics import cost
from trainables.bench.models.batches import ready
from trainables.bench.models.structure import last_logits
from trainables.bench.prefix.forward import Forward, Whole
from trainables.core.alone import alone
from trainables.core.errors import MetricError
from trainables.core.spec import Role
from trainables.core.types import IGNORED, Batch
from trainables.stage import Bench

if TYPE_CHECKING:
    from trainables.bench.metrics.generate import Writer

T = TypeVar("T")
SLICE = 1024  # positions whose logits are float32 at one time


@dataclass(frozen=True)
class Decisions:
    """What a classifier said about each item, [items] each."""

    predicted: Tensor
    wanted: Tensor
    losses: Tensor  # cross-entropy


class Evaluation:
    """What metrics see: a model, one role's data, and the passes over it that they share; each is
    made when first needed, over the batches that are looked at: all, unless `look_at` says less."""

    def __init__(self, bench: Bench, role: Role, forward: Forward | None = None) -> None:
        """`forward` runs the bench's model on a batch; by default all of it."""
        self.bench, self.role = bench, role
        self.forward: Forward = Whole(bench.model) if forward is None else forward
        self.model, self.data, self.processor = bench.model, bench.data, bench.processor
        self.spec, self.device = bench.spec, bench.device
        self.lineage = bench.subject.lineage
        self.seconds = 0.0  # spent in passes so far
        self._looked: tuple[int, ...] | None = None
        self._passed: dict[str, dict[int, Any]] = {}  # pass -> batch -> what came of it

    def batches(self, role: Role | None = None) -> Iterator[Batch]:
        """The role's batches, or those of another one, as the model takes them, with labels."""
        for batch in self.data.batches(role or self.role):
            yield ready(self.model, batch, labels=True)

    def look_at(self, batches: Sequence[int] | None) -> None:
        """From now on, metrics are of these batches of the role alone, in the role's order; what
        was computed of a batch before is kept."""
        self._looked = None if batches is None else tuple(sorted(batches))

    @property
    def looked(self) -> Sequence[int]:
        """The numbers of the batches that are looked at."""
        return range(len(self.data.batches(self.role))) if self._looked is None else self._looked

    @property
    def items(self) -> list[Any]:
        """The items that are looked at."""
        every = self.data.by_batch(self.role)
        return [item for at in self.looked for item in every[at]]

    @property
    def token_losses(self) -> tuple[Tensor, Tensor]:
        """Per item, [items] each: the labelled tokens' summed negative log-likelihood, and their
        number."""
        found = self._over("token_losses", self._losses)
        sums, counts = zip(*found, strict=True)
        return torch.cat(sums), torch.cat(counts)

    @property
    def decisions(self) -> Decisions:
        """The class with the highest logit for each item."""
        found = self._over("decisions", self._decided)
        scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        losses = F.cross_entropy(scores.double(), labels, reduction="none")
        finite("loss", float(losses.sum()))
        return Decisions(scores.argmax(-1), labels, losses)

    def _decided(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.forward(batch).logits.float().cpu(), batch["labels"]

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return token_losses(self.model, batch, self.forward)

    @property
    def choices(self) -> list[Tensor]:
        """For each question, the log-likelihood of each choice."""
        found = self._over("choices", lambda batch: -self._losses(batch)[0])
        flat = torch.cat(found)
        finite("log-likelihood", float(flat.sum()))
        return list(torch.split(flat, [len(item.choices) for item in self.items]))

    @property
    def texts(self) -> list[str]:
        """What the model writes for each source, always taking the likeliest token."""
        found = self._over("texts", self.writer.write)
        return [text for texts in found for text in texts]

    @cached_property
    def writer(self) -> "Writer":
        """The model as it answers prompts."""
        from trainables.bench.metrics.generate import Writer  # which needs transformers

        every = self.data.batches(self.role)
        longest = max(int((batch["labels"] != IGNORED).sum(1).max()) for batch in every) + 1
        writing = self.data.writing
        return Writer(self.model, self.processor, writing, writing.limit or longest)

    @cached_property
    def response_times(self) -> list[float]:
        """Milliseconds until the whole answer to a prompt is there, prompt by prompt."""
        with self._evaluating():
            return self.writer.response_times(self.data.batches(self.role))

    @cached_property
    def writing_memory(self) -> int:
        """Bytes of the model, and of what answering a batch adds to it, at most."""
        with self._evaluating():
            return self.writer.peak_memory(self.data.batches(self.role)[0])

    def _over(self, name: str, run: Callable[[Batch], T]) -> list[T]:
        """What a pass gives for each batch that is looked at; computed once."""
        known = self._passed.setdefault(name, {})
        if missing := [at for at in self.looked if at not in known]:
            with self._passing() as batches:
                for at in missing:
                    known[at] = run(batches[at])
        return [known[at] for at in self.looked]

    @cached_property
    def harness(self) -> dict[str, float]:
        """What the harness's tasks of the study say, in the role's part of their questions."""
        try:
            from trainables.bench.metrics.harness import harness_scores
        except ImportError as error:
            do = "pip install 'rayduce[harness]', or lm-eval"
            raise MetricError(f"lm-evaluation-harness is not there: {error}", do=do) from error
        with self._passing():
            given = self.spec.data.model_copy(update={"batch_size": self.data.batch_size})
            seed = given.seed_or(self.spec.seed)
            return harness_scores(self.model, self.processor, given, self.role, seed)

    @property
    def references(self) -> list[str]:
        return [item.target for item in self.items]

    @cached_property
    def pace(self) -> cost.Pace:
        return cost.pace(self.model, self.data.batches(self.role)[0])

    def alone(self) -> AbstractContextManager[bool]:
        """While open, no other trial computes on the device."""
        return alone(cost.floor(self.device, self.spec.cache))

    @torch.no_grad()
    def warm_up(self) -> None:
        """Run a batch before anything is timed: a first pass takes longer."""
        with self._evaluating():
            self.model(**ready(self.model, self.data.batches(self.role)[0]))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @contextmanager
    def _passing(self) -> Iterator[list[Batch]]:
        batches = self.data.batches(self.role)
        started = time.perf_counter()
        with self._evaluating(), torch.no_grad():
            yield batches
        self.seconds += time.perf_counter() - started


@torch.no_grad()
def token_losses(model: Any, batch: Batch, forward: Forward | None = None) -> tuple[Tensor, Tensor]:
    """Per row, on the CPU: the labelled tokens' summed negative log-likelihood, their number.

    Args:
        forward: runs the model; by default all of it.
    """
    labels, run = batch["labels"], Whole(model) if forward is None else forward
    if getattr(model.config, "is_encoder_decoder", False):
        logits = run(batch).logits
    else:
        kept, start = last_logits(model, labels)
        logits = run(batch, **kept).logits[:, :-1]
        labels = labels[:, start + 1 :]
    sums = [_summed(row, wanted) for row, wanted in zip(logits, labels, strict=True)]
    return torch.stack(sums), (labels != IGNORED).sum(1)


def _summed(logits: Tensor, wanted: Tensor) -> Tensor:
    parts = zip(logits.split(SLICE), wanted.to(logits.device).split(SLICE), strict=True)
    losses = [
        F.cross_entropy(some.float(), labels, ignore_index=IGNORED, reduction="none")
        for some, labels in parts
    ]
    return torch.cat(losses).double().sum().cpu()


def finite(name: str, value: float) -> float:
    """The value, if it is a number to compare with."""
    if not math.isfinite(value):
        raise MetricError(f"{name} is {value}: the model no longer gives numbers that can be used")
    return value
