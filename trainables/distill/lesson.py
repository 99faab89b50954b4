"""What one student learns from one teacher: examples, and the loss that compares the two."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.bench.data.tokenize import filler
from trainables.bench.models.batches import reads_targets, ready
from trainables.bench.training.examples import examples, joined, shuffled, steps
from trainables.bench.training.loop import Recipe, seeded
from trainables.core.cache import digest, digest_tensors
from trainables.core.errors import PlanError
from trainables.core.spec import TextsSpec
from trainables.core.types import IGNORED, Batch, PreTrainedModel
from trainables.distill.losses import attention_loss, hidden_loss, kd_loss, pooled
from trainables.distill.pair import Pair
from trainables.distill.teacher import Said, ask, rows_of
from trainables.stage import Bench, Reading

_EAGER = "eager"  # the implementation that tells where it looks


class Shown(NamedTuple):
    """What a forward pass is compared by."""

    logits: Tensor
    hidden: Sequence[Tensor]  # after each block, (examples, positions, width)
    attention: Sequence[Tensor]  # of each block, (examples, heads, positions, positions)
    mask: Tensor | None  # real positions, where hidden states or attention are asked for


class Lesson:
    """Holds what is compared; `recipe` is how it is learned.

    Args:
        weights: temperature, alpha, and those of the losses on hidden states and attention.
    """

    def __init__(
        self, bench: Bench, pair: Pair, weights: Mapping[str, float], unlabelled: TextsSpec | None
    ) -> None:
        self.bench, self.pair, self.weights = bench, pair, weights
        self.texts: list[str] = []
        if unlabelled is not None:
            self.texts = bench.base.reading.data.more_texts(unlabelled, bench.seed)
        self.looks = weights["hidden"] > 0 or weights["attention"] > 0
        self.beside, self.smoothing = nn.ModuleList(), 0.0

    def recipe(self, usual: Recipe) -> Recipe:
        """The usual training, of this loss on these examples."""
        rows, student = self._examples(self.pair.student.reading), self.bench.model
        for number, row in enumerate(rows):
            row["row"] = torch.tensor(number)
        self.smoothing = usual.spec.label_smoothing
        size, fill = usual.spec.batch_size, filler(self.pair.student.reading.processor)
        if self.looks:
            self._prepare(student, rows[:1], usual.seed(0))
        return replace(
            usual,
            batches=lambda seed: shuffled(rows, size, seed, fill),
            steps=steps(len(rows), size),
            loss=self.loss,
            beside=self.beside,
        )

    def _batches(self, reading: Reading) -> list[list[Batch]]:
        """Those of the rows to train on, and those of the texts without a label."""
        more = reading.data.encoded(self.texts) if self.texts else []
        return [reading.data.batches("train"), more]

    def _examples(self, reading: Reading) -> list[Batch]:
        apart = reads_targets(self.bench.model)
        return [row for part in self._batches(reading) for row in examples(part, apart=apart)]

    @cached_property
    def said(self) -> list[Said] | None:
        """The teacher's logits on both kinds of examples; None: asked anew at every step."""
        teacher = self.pair.teacher
        labelled, more = self._batches(teacher.reading)
        known = ask(self.bench, teacher, labelled, teacher.reading.data.fingerprint("train"))
        if known is None:
            return None
        prints = digest([digest_tensors(batch) for batch in more])
        return [known, *filter(None, [ask(self.bench, teacher, more, prints) if more else None])]

    @cached_property
    def _teachers(self) -> list[Batch]:
        """The examples as the teacher reads them."""
        return self._examples(self.pair.teacher.reading)

    # -- the loss ------------------------------------------------------------------------------

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """What is made small."""
        numbers, labels = batch["row"].tolist(), batch["labels"]
        given = {name: value for name, value in batch.items() if name != "row"}
        mine = self._show(model, given)
        said, wanted = rows_of(model, mine.logits, labels.to(mine.logits.device))
        theirs = self._teacher(numbers, given) if self.looks or self.said is None else None
        taught = self._taught(numbers, labels, theirs).to(said.device)
        width = min(said.shape[-1], taught.shape[-1])  # a vocabulary may be padded
        how = (self.weights["temperature"], self.weights["alpha"], self.smoothing)
        total = kd_loss(said[:, :width], taught[:, :width], wanted, *how)
        return total if theirs is None or not self.looks else total + self._states(mine, theirs)

    def _taught(self, numbers: Sequence[int], labels: Tensor, theirs: Shown | None) -> Tensor:
        if self.said is None:
            assert theirs is not None
            found, _ = rows_of(self.pair.teacher.model, theirs.logits, labels)
        else:
            found = self._looked_up(self.said, numbers)
        return found if self.pair.order is None else found[:, list(self.pair.order)]

    @staticmethod
    def _looked_up(said: Sequence[Said], numbers: Sequence[int]) -> Tensor:
        first = len(said[0].starts) - 1
        parts = [
            said[0].of([n]) if n < first else said[1].of([n - first])  # examples without a label
            for n in numbers
        ]
        return torch.cat(parts)

    def _states(self, mine: Shown, theirs: Shown) -> Tensor:
        """The weighted losses on hidden states and attention."""
        assert mine.mask is not None
        total = mine.logits.new_zeros(())
        pairs = list(enumerate(self.pair.layers))
        if weight := self.weights["hidden"]:
            gaps = [self._gap(i, mine, theirs, theirs.hidden[j]) for i, j in pairs]
            total = total + weight * torch.stack(gaps).mean()
        if weight := self.weights["attention"]:
            looks = [
                attention_loss(mine.attention[i], theirs.attention[j], mine.mask) for i, j in pairs
            ]
            total = total + weight * torch.stack(looks).mean()
        return total

    def _gap(self, number: int, mine: Shown, theirs: Shown, wanted: Tensor) -> Tensor:
        own, mask = mine.hidden[number], mine.mask
        assert mask is not None and theirs.mask is not None
        if not self.pair.alike:
            own, wanted = pooled(own, mask), pooled(wanted, theirs.mask)
            mask = torch.ones_like(mask[:, :1])
        return hidden_loss(self.beside[number](own.float()), wanted, mask)

    # -- forward passes ------------------------------------------------------------------------

    @torch.no_grad()
    def _teacher(self, numbers: Sequence[int], given: Batch) -> Shown:
        """What the teacher shows of the same examples, as it reads them."""
        model, reading = self.pair.teacher.model, self.pair.teacher.reading
        if not self.pair.alike:
            fill = {"labels": IGNORED, "input_ids": filler(reading.processor)}
            given = joined([self._teachers[number] for number in numbers], fill)
        with torch.autocast(model.device.type, enabled=False):
            return self._show(model, given)

    def _show(self, model: PreTrainedModel, given: Batch) -> Shown:
        inputs = ready(model, given)
        hidden, attention = self.weights["hidden"] > 0, self.weights["attention"] > 0
        asked = {"output_hidden_states": hidden, "output_attentions": attention}
        out = model(**inputs, **{name: True for name, wanted in asked.items() if wanted})
        shown = (out.hidden_states[1:] if hidden else (), out.attentions if attention else ())
        states, looks = ([one.to(model.device) for one in part] for part in shown)
        mask = inputs.get("attention_mask")
        if mask is None and self.looks:  # images: all of it
            first = states[0] if hidden else looks[0][:, 0]
            mask = torch.ones(first.shape[:2], device=model.device)
        return Shown(out.logits, states, looks, None if mask is None else mask.bool())

    def _prepare(self, student: PreTrainedModel, rows: Sequence[Batch], seed: int) -> None:
        """Let both show what is compared, and make the projections, the same for a seed."""
        if self.weights["attention"]:
            for model in (student, self.pair.teacher.model):
                tell_attention(model)
        if not self.weights["hidden"]:
            return
        fill = {"labels": IGNORED}
        given = joined([{n: v for n, v in row.items() if n != "row"} for row in rows], fill)
        with torch.no_grad():
            mine, theirs = self._show(student, given), self._teacher([0], given)
        with seeded(seed, torch.device("cpu")):
            for number, other in enumerate(self.pair.layers):
                widths = mine.hidden[number].shape[-1], theirs.hidden[other].shape[-1]
                self.beside.append(nn.Linear(*widths))
        self.beside.to(student.device)

    @contextmanager
    def telling(self, student: PreTrainedModel) -> Iterator[None]:
        """Inside, the student may be made to tell where it looks; afterwards it is as before."""
        before = student.config._attn_implementation
        try:
            yield
        finally:
            if student.config._attn_implementation != before:
                student.set_attn_implementation(before)


def tell_attention(model: PreTrainedModel) -> None:
    """Switch a fork to the implementation that gives its attention out.

    Raises PlanError where it has none.
    """
    try:
        model.set_attn_implementation(_EAGER)
    except (ValueError, ImportError, AttributeError) as error:
        raise _untold(model) from error
    if model.config._attn_implementation != _EAGER:
        raise _untold(model)


def _untold(model: PreTrainedModel) -> PlanError:
    return PlanError(
        f"Distill.attention: {type(model).__name__} cannot be run by the eager implementation, "
        "which alone tells where it looks",
        do="leave attention at 0",
    )
