"""Evaluates omission sets together: candidates that agree so far share their hidden states.

The sets become paths through a trie of kept blocks, walked depth first; every common prefix runs
once. States are kept as far as there is room, so that the next sets begin where they leave earlier
ones. Who only wants to know what beats a loss says so, and a set goes no further than the batch
that shows that it does not. Nothing is approximated: `alone` runs each candidate as a model of its
own, on the same batches, and gives the same bits. (Other batches give other float rounding: 1e-6
relative in float32, 1e-2 in bfloat16.)
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.bench.models import structure
from trainables.bench.models.blockwise import Entry, Walk
from trainables.bench.models.surgery import remove_blocks, silence
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.core.types import Batch, PreTrainedModel
from trainables.omission.loss_log import Key, Memo
from trainables.omission.losses import (
    Loss,
    Row,
    ScoredBatch,
    divergence,
    log_likelihood,
    scored_batch,
)
from trainables.omission.paths import Kept, Recent, Step, Unit, common, path

CHUNK = 512  # predictions that go through the head at once: bounds the memory for logits
ROUNDING = 1e-5  # by how much a sum of what is never negative may shrink as it goes on
ROOM = 2**29  # bytes for states on the paths walked last, where the next ones may begin


@torch.no_grad()
def can_pack(model: PreTrainedModel) -> bool:
    """Whether a row may hold several answers that do not see each other: tried on two."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(model.config, "sliding_window", None):
        return False
    row = Row([1, 2], ((0, [3, 1, 2]), (1, [2, 3, 1])))
    parts = [Row(row.question, (answer,)) for answer in row.answers]
    try:
        packed, split = (
            PrefixEvaluator(model, Loss("tl", (scored_batch(rows),), torch.ones(2))).means([()])
            for rows in ([row], parts)
        )
    except (ValueError, TypeError, RuntimeError, IndexError):
        return False
    return torch.allclose(packed, split, rtol=0.02 if model.dtype.itemsize < 4 else 1e-4)


class PrefixEvaluator:
    """Omission sets in, losses out. The model is not changed.

    Args:
        unit: what the numbers in a set stand for.
        memo: losses measured before; new ones are added.
    """

    def __init__(
        self, model: PreTrainedModel, loss: Loss, *, unit: Unit = "block", memo: Memo | None = None
    ) -> None:
        if unit != "block" and not structure.family(model).pre_norm:
            raise PlanError(f"unit {unit}: {type(model).__name__} can only omit whole blocks")
        self.walk, self.loss, self.unit, self.memo = Walk(model), loss, unit, memo
        self.count = len(self.walk.blocks) * (2 if unit == "both" else 1)
        self._batch_forwards = 0
        self._dense: list[Tensor] = []
        self._states = Recent(ROOM)
        self._partial: dict[Step, nn.Module] = {}

    @property
    def forwards(self) -> int:
        """Block-forwards of the whole calibration set so far; half a block counts as one."""
        return self._batch_forwards // len(self.loss.batches)

    def __call__(self, sets: Sequence[Collection[int]], bound: float = math.inf) -> list[float]:
        """The loss of every set, in the order given.

        Args:
            bound: who is above it is of no interest: infinity, as soon as some batches show it.
        """
        keys: list[Key] = [tuple(sorted(omit)) for omit in sets]
        known = self.memo.known if self.memo else {}
        new = list(dict.fromkeys(key for key in keys if key not in known))
        rows = zip(new, self._means(new, bound), strict=True)
        found = {key: self.loss.total(row) for key, row in rows if row is not None}
        if self.memo and found:
            self.memo.add(found)
        found = {**known, **found}
        return [found.get(key, math.inf) for key in keys]

    def means(self, sets: Sequence[Collection[int]]) -> Float[Tensor, "sets groups"]:
        """The mean score of every group of the loss, for every set."""
        rows = [row for row in self._means(sets, math.inf) if row is not None]
        return torch.stack(rows) if rows else torch.empty(0, len(self.loss.weights))

    @torch.no_grad()
    def _means(self, sets: Sequence[Collection[int]], bound: float) -> list[Tensor | None]:
        """The same; None for a set of which some batches show that it is above the bound."""
        paths = [path(omit, len(self.walk.blocks), self.unit) for omit in sets]
        scores: list[list[Tensor]] = [[] for _ in sets]
        todo = list(enumerate(paths))
        for index in range(len(self.loss.batches)):
            for number, score in self._scored(index, todo) if todo else ():
                scores[number].append(score)
            if bound < math.inf and self.loss.grows:
                todo = [one for one in todo if not self._above(bound, scores[one[0]])]
        rows = {number: self.loss.group_means(scores[number]) for number, _ in todo}
        return [rows.get(number) for number in range(len(sets))]

    def _above(self, bound: float, scores: Sequence[Tensor]) -> bool:
        """Whether a loss is above a bound, whatever the batches add that are not scored yet."""
        least = self.loss.total(self.loss.group_means(scores))
        return least - ROUNDING * (1 + least) > bound

    def _scored(self, index: int, todo: list[tuple[int, Kept]]) -> Iterator[tuple[int, Tensor]]:
        scored = self.loss.batches[index]
        batch = self._inputs(scored.batch)
        entry = self.walk.enter(batch)
        dense = self._dense_logits(index) if self.loss.against_dense else None
        for numbers, hidden in self._leaves(entry, entry.hidden, todo, 0, index):
            score = self._score(scored, hidden, dense)
            yield from ((number, score) for number in numbers)

    def _inputs(self, batch: Batch) -> Batch:
        """On the model's device; a packed mask in the form every attention takes."""
        model = self.walk.model
        moved = {name: value.to(model.device) for name, value in batch.items()}
        mask = moved.get("attention_mask")
        if mask is not None and mask.dim() == 4:
            lowest = torch.finfo(model.dtype).min
            moved["attention_mask"] = torch.zeros_like(mask, dtype=model.dtype).masked_fill(
                ~mask, lowest
            )
        return moved

    def _leaves(
        self, entry: Entry, hidden: Tensor, todo: list[tuple[int, Kept]], depth: int, index: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        """(the candidates that end here, their last state), depth first."""
        trunk = common([steps for _, steps in todo])
        for length in range(len(trunk), depth, -1):
            if (known := self._states.find((index, trunk[:length]))) is not None:
                hidden, depth = known, length
                break
        for length in range(depth, len(trunk)):
            hidden = self._step(entry, trunk[length], hidden)
            self._states.keep((index, trunk[: length + 1]), hidden)
        if ended := [number for number, steps in todo if len(steps) == len(trunk)]:
            yield ended, hidden
        branches: dict[Step, list[tuple[int, Kept]]] = {}
        for number, steps in todo:
            if len(steps) > len(trunk):
                branches.setdefault(steps[len(trunk)], []).append((number, steps))
        for below in branches.values():
            yield from self._leaves(entry, hidden, below, len(trunk), index)

    def _step(self, entry: Entry, step: Step, hidden: Tensor) -> Tensor:
        self._batch_forwards += 1
        index, part = step
        if part == "block":
            return self.walk.step(entry, index, hidden)
        if step not in self._partial:
            row = structure.family(self.walk.model)
            silent = row.attention if part == "ffn" else row.ffn
            self._partial[step] = _without(self.walk.blocks[index], silent, entry, index)
        args, kwargs = entry.calls[index]
        after = self._partial[step](hidden, *args, **kwargs)
        state: Tensor = after[0] if isinstance(after, tuple) else after
        return state

    def _score(self, scored: ScoredBatch, hidden: Tensor, dense: Sequence[Tensor] | None) -> Tensor:
        scores = []
        for index, logits in enumerate(self._logits(scored, hidden)):
            if dense is None:
                start = index * CHUNK
                targets = scored.targets[start : start + CHUNK].to(logits.device)
                scores.append(log_likelihood(logits, targets))
            else:
                scores.append(divergence(logits, dense[index]))
        return torch.cat(scores).cpu()

    def _logits(self, scored: ScoredBatch, hidden: Tensor) -> Iterator[Tensor]:
        """The head on the predictions that count, as rows of one token each: the final norm and
        the head act on each position by itself."""
        picked = hidden[scored.rows.to(hidden.device), scored.columns.to(hidden.device)]
        for part in torch.split(picked, CHUNK):
            rows = {"input_ids": torch.zeros(len(part), 1, dtype=torch.long, device=part.device)}
            yield self.walk.leave(rows, part[:, None]).logits[:, 0]

    @torch.no_grad()
    def prepare(self) -> None:
        """Run the untouched model, if the loss compares with it; else done on first use."""
        everything = path((), len(self.walk.blocks))
        first = len(self._dense)
        rest = self.loss.batches[first:] if self.loss.against_dense else ()
        for index, scored in enumerate(rest, first):
            entry = self.walk.enter(self._inputs(scored.batch))
            [(_, hidden)] = self._leaves(entry, entry.hidden, [(0, everything)], 0, index)
            self._dense.append(hidden)

    def _dense_logits(self, index: int) -> list[Tensor]:
        """What the untouched model predicts; only its last states are kept."""
        self.prepare()
        return list(self._logits(self.loss.batches[index], self._dense[index]))


class _Silent(nn.Module):
    """Stands in for a part of a block that contributes nothing to the residual stream."""

    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.shape(args[0] if args else kwargs["hidden_states"])


def _without(block: nn.Module, name: str, entry: Entry, index: int) -> nn.Module:
    """The block with one of its parts silent; all its tensors shared."""
    seen: list[Any] = []
    hook = structure.reach(block, name).register_forward_hook(lambda *call: seen.append(call[-1]))
    try:
        args, kwargs = entry.calls[index]
        block(entry.hidden, *args, **kwargs)
    finally:
        hook.remove()
    extra = len(seen[0]) - 1 if isinstance(seen[0], tuple) else None

    def shape(hidden: Tensor) -> Any:
        zeros = torch.zeros_like(hidden)
        return zeros if extra is None else (zeros, *[None] * extra)

    changed = copy.copy(block)
    changed._modules = {**block._modules, name: _Silent(shape)}
    return changed


@torch.no_grad()
def alone(
    model: PreTrainedModel, loss: Loss, sets: Sequence[Collection[int]], unit: Unit = "block"
) -> list[float]:
    """The naive twin: every candidate is built as a model of its own and run by itself."""
    found = []
    for omit in sets:
        dense = PrefixEvaluator(model, loss)
        dense.prepare()
        rebuilt = PrefixEvaluator(rebuild(model, omit, unit), loss)
        rebuilt._dense = dense._dense
        found += rebuilt([()])
    return found


def rebuild(model: PreTrainedModel, omit: Collection[int], unit: Unit = "block") -> PreTrainedModel:
    """A fork without the units: blocks are taken out, parts get all-zero output weights."""
    changed, row = fork(model), structure.family(model)
    steps = dict(path(omit, len(structure.blocks(model)), unit))
    for index, block in enumerate(structure.blocks(changed)):
        silent = {"attention": row.contract, "ffn": row.attention_out}.get(steps.get(index, ""))
        if silent:
            silence(block, silent)
    remove_blocks(changed, set(range(len(structure.blocks(model)))) - set(steps))
    return changed
