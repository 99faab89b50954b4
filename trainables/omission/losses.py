"""What an omission set is judged by: which predictions of which batches, and how they add up.

- `ppl`: mean negative log-likelihood of the next token (SLEB).
- `kl`: mean divergence from the dense model's next-token distribution (EvoPress).
- `tl`: minus the sum over items of the right answer's mean log-likelihood per token (PuDDing).
- `tld`: minus the sum over items of (C-1) times that, less the sum over the wrong answers.

All four are one weighted sum over groups of predictions (rows of text, or answers), so one
evaluator serves them all, and only predictions that count go through the model's head.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from trainables.bench.data.prompts import Question
from trainables.bench.data.tokenize import Ids, choice_rows
from trainables.core.cache import digest_tensors
from trainables.core.errors import PlanError
from trainables.core.types import Batch


@dataclass(frozen=True)
class ScoredBatch:
    """One batch and the predictions of it that count."""

    batch: Batch
    rows: Int[Tensor, " scored"]
    columns: Int[Tensor, " scored"]
    targets: Int[Tensor, " scored"]  # the token to be predicted at (row, column)
    owners: Int[Tensor, " scored"]  # the group the prediction belongs to, counted over all batches


@dataclass(frozen=True)
class Loss:
    """Scored batches, and the weight of each group's mean score in the total."""

    name: str
    batches: tuple[ScoredBatch, ...]
    weights: Float[Tensor, " groups"]
    against_dense: bool = False  # the score is a divergence, not a log-likelihood

    def total(self, means: Float[Tensor, " groups"]) -> float:
        """The loss, from the mean score of every group."""
        return float((means * self.weights).sum())

    @property
    def grows(self) -> bool:
        """Whether no prediction can make the loss smaller, so that some batches' part of it is a
        bound on the whole from below."""
        return bool((self.weights >= 0 if self.against_dense else self.weights <= 0).all())

    def fingerprint(self) -> str:
        """Identifies the loss and its calibration, down to how rows are batched."""
        tensors = {"weights": self.weights}
        for index, scored in enumerate(self.batches):
            parts = {**scored.batch, "rows": scored.rows, "columns": scored.columns}
            parts |= {"targets": scored.targets, "owners": scored.owners}
            tensors |= {f"{index}.{name}": value for name, value in parts.items()}
        return f"{self.name}-{digest_tensors(tensors)}"

    def group_means(self, scores: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, " groups"]:
        """The mean of each group's scores, from the scores of every batch; where only the first
        batches' are given, as if the others' were 0."""
        owners = torch.cat([scored.owners for scored in self.batches])
        seen = torch.cat(list(scores)).double().cpu()
        sums = torch.zeros(len(self.weights), dtype=torch.float64)
        sums.index_add_(0, owners[: len(seen)], seen)
        return sums / torch.bincount(owners, minlength=len(self.weights))


def log_likelihood(
    logits: Float[Tensor, "scored vocabulary"], targets: Int[Tensor, " scored"]
) -> Float[Tensor, " scored"]:
    """The log-probability of each target, in float32."""
    parts = zip(torch.split(logits, _few(logits)), torch.split(targets, _few(logits)), strict=True)
    return torch.cat([-functional.cross_entropy(x.float(), y, reduction="none") for x, y in parts])


def divergence(
    logits: Float[Tensor, "scored vocabulary"], dense: Float[Tensor, "scored vocabulary"]
) -> Float[Tensor, " scored"]:
    """KL(dense, candidate) of each prediction, in float32."""
    parts = zip(torch.split(logits, _few(logits)), torch.split(dense, _few(logits)), strict=True)
    return torch.cat([_divergence(mine, wanted) for mine, wanted in parts])


def _divergence(logits: Tensor, dense: Tensor) -> Tensor:
    mine, wanted = (torch.log_softmax(one.float(), -1) for one in (logits, dense))
    return functional.kl_div(mine, wanted, log_target=True, reduction="none").sum(-1)


def _few(logits: Tensor) -> int:
    """So many rows at a time that their float32 copies stay in a CPU's cache: 4 times as fast."""
    return max(1, 2**20 // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)


def ppl(batches: Iterable[Batch]) -> Loss:
    """Mean next-token negative log-likelihood of running text."""
    return _text("ppl", batches, sign=-1.0)


def kl(batches: Iterable[Batch]) -> Loss:
    """Mean divergence from the dense model on running text."""
    return _text("kl", batches, sign=1.0)


def _text(name: str, batches: Iterable[Batch], sign: float) -> Loss:
    scored, rows = [], 0
    for batch in batches:
        scored.append(_every_token(batch, rows))
        rows += len(batch["input_ids"])
    if not scored:
        raise PlanError(f"{name}: no calibration batches")
    counts = torch.bincount(torch.cat([one.owners for one in scored]), minlength=rows)
    weights = sign * counts.double() / counts.sum()
    return Loss(name, tuple(scored), weights, against_dense=name == "kl")


def _every_token(batch: Batch, first: int) -> ScoredBatch:
    tokens = batch["input_ids"].cpu()
    real = batch.get("attention_mask", torch.ones_like(tokens)).cpu().bool()
    inputs = {"input_ids": tokens}
    if not real.all():
        inputs["attention_mask"] = real.long()
    rows, columns = (real[:, 1:] & real[:, :-1]).nonzero(as_tuple=True)
    return ScoredBatch(inputs, rows, columns, tokens[rows, columns + 1], rows + first)


@dataclass(frozen=True)
class Row:
    """Tokens that go through the model together: a question and answers that do not see each
    other, each given as (its group, its tokens)."""

    question: Ids
    answers: tuple[tuple[int, Ids], ...]

    def inputs(self) -> Ids:
        """The question, then every answer but its last token, from which nothing is predicted."""
        return self.question + [t for _, answer in self.answers for t in answer[:-1]]


def answers(
    name: str,
    items: Sequence[Question],
    tokenizer: Any,
    *,
    packed: bool = False,
    max_length: int = 512,
    batch_size: int = 16,
) -> Loss:
    """`tl` or `tld` of multiple-choice items; the groups are the answers, item by item.

    Args:
        name: `tl` looks at right answers only, `tld` at all.
        packed: one row per item, its choices sharing the question; differs from one row per
            choice by float rounding only.
    """
    if not items:
        raise PlanError(f"{name}: no calibration items")
    rows: list[Row] = []
    weights: list[float] = []
    for item in items:
        asked = choice_rows(tokenizer, item, max_length)
        right = range(item.answer, item.answer + 1) if name == "tl" else range(len(asked))
        numbered = [(len(weights) + i, asked[number][1]) for i, number in enumerate(right)]
        rest = 1.0 if name == "tl" else len(asked) - 1.0
        weights += [-rest if number == item.answer else 1.0 for number in right]
        if packed and not item.contexts:
            rows.append(Row(asked[0][0], tuple(numbered)))
        else:
            alone = zip(right, numbered, strict=True)
            rows += [Row(asked[number][0], (one,)) for number, one in alone]
    scored = tuple(_batched(rows, batch_size))
    return Loss(name, scored, torch.tensor(weights, dtype=torch.float64))


def _batched(rows: Sequence[Row], size: int) -> Iterator[ScoredBatch]:
    """Rows of similar length together."""
    ordered = sorted(rows, key=lambda row: len(row.inputs()))
    for start in range(0, len(ordered), size):
        yield scored_batch(ordered[start : start + size])


def scored_batch(rows: Sequence[Row]) -> ScoredBatch:
    """One batch of rows; what is padded on the right is not seen by anything that counts."""
    length = max(len(row.inputs()) for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    scored: list[tuple[int, int, int, int]] = []
    for index, row in enumerate(rows):
        inputs = row.inputs()
        tokens[index, : len(inputs)] = torch.tensor(inputs)
        start = len(row.question)
        for group, answer in row.answers:
            columns = [len(row.question) - 1, *range(start, start + len(answer) - 1)]
            scored += [(index, c, t, group) for c, t in zip(columns, answer, strict=True)]
            start += len(answer) - 1
    batch = {"input_ids": tokens}
    if any(sum(len(a) > 1 for _, a in row.answers) > 1 for row in rows):
        batch |= _blocked(rows, length)
    return ScoredBatch(batch, *torch.tensor(scored).T)


def _blocked(rows: Sequence[Row], length: int) -> Batch:
    """Positions and mask of packed rows: an answer sees its question and itself."""
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    seen = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    for index, row in enumerate(rows):
        first = len(row.question)
        positions[index, :first] = torch.arange(first)
        start = first
        for _, answer in row.answers:
            end = start + len(answer) - 1
            positions[index, start:end] = torch.arange(first, first + end - start)
            seen[index, start:end, first:start] = False
            start = end
    return {"position_ids": positions, "attention_mask": seen[:, None]}
