"""Similarity pruning: blocks whose outputs are alike form a module, and a module keeps few of them.

The similarity is linear CKA between block outputs, in percent; it is measured once per model and
data, so that threshold, k and rule are free to vary. `Similarity` measures it over minibatches
without bias; `SimilarityPerSample` per example and biased, as the published BERT and T5 tables do.
Thresholds do not carry over between the two.

Source: "MPruner", 2024 (arXiv 2408.13482), after "DeepArc", Ren et al., ICSE 2023.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models.batches import reaching, real_positions
from trainables.bench.models.blockwise import watching
from trainables.bench.models.structure import blocks, fixed_blocks, run_blocks, stacks, towers
from trainables.bench.models.surgery import remove_blocks
from trainables.bench.prefix.calibrate import ByBlock, Run
from trainables.bench.training.freeze import neighbours
from trainables.core.errors import PlanError
from trainables.core.pictures import Heatmap
from trainables.core.types import Batch, PreTrainedModel, Stats
from trainables.similarity.cka import SMALLEST, Minibatches, PerSample, gram
from trainables.stage import Method, Removed, Summary

log = logging.getLogger(__name__)
Rule: TypeAlias = Literal["anchor", "adjacent"]


def modules(
    matrix: Float[Tensor, "blocks blocks"], threshold: float, rule: Rule = "anchor"
) -> list[list[int]]:
    """Contiguous runs of blocks alike to the run's first block, or each to its neighbour."""
    found: list[list[int]] = []
    for block in range(len(matrix)):
        like = found[-1][0 if rule == "anchor" else -1] if found else None
        if like is not None and float(matrix[like, block]) >= threshold:
            found[-1].append(block)
        else:
            found.append([block])
    return found


def plan(found: Sequence[Sequence[int]], k: int, fixed: Collection[int] = ()) -> list[int]:
    """The blocks that go: of each module every k-th after the first, but none that must stay."""
    return sorted(block for module in found for block in module[1::k] if block not in fixed)


@dataclass(frozen=True)
class Similarity(ByBlock, Method):
    """Remove blocks of modules of alike blocks; CKA over minibatches, unbiased."""

    threshold: float = 99.0  # percent
    k: int = 1  # of each module's blocks after the first, every k-th goes: 1 all, 2 half
    rule: Rule = "anchor"

    def __post_init__(self) -> None:
        self.require("threshold", 0 <= self.threshold <= 100, "0 to 100, in percent")
        self.require("k", isinstance(self.k, int) and self.k >= 1, "a whole number from 1 on")
        self.require("rule", self.rule in get_args(Rule), " or ".join(get_args(Rule)))

    @classmethod
    def measure(
        cls, model: PreTrainedModel, inputs: Iterable[Batch], run: Run, first: int
    ) -> Stats:
        """All inner products between the outputs of a minibatch's examples, block by block.

        Returns:
            `gram.BLOCK`: [minibatches, n, n] float64, n being the largest minibatch's examples;
            `examples.BLOCK`: [minibatches], how many each has.
        """
        tower = [index for index, span in enumerate(towers(model)) for _ in span]
        grams: list[list[Tensor]] = [[] for _ in tower[first:]]
        for batch in inputs:

            def reduce(block: int, output: Tensor, batch: Batch = batch) -> None:
                mask = real_positions(batch, tower[first + block])
                grams[block].append(gram(_flat(output, mask)).cpu())

            _watch(model, first, partial(run, batch), reduce)
        found = Stats()
        for block, ones in enumerate(grams, first):
            sizes = [len(one) for one in ones]
            room = torch.zeros(len(ones), max(sizes), max(sizes), dtype=torch.float64)
            for at, one in enumerate(ones):
                room[at, : len(one), : len(one)] = one
            found |= {f"gram.{block}": room, f"examples.{block}": torch.tensor(sizes)}
        return found

    @classmethod
    def owned(cls, model: PreTrainedModel) -> list[list[str]]:
        """The inner products of each block's outputs."""
        return [[f"gram.{n}", f"examples.{n}"] for n in range(len(blocks(model)))]

    @classmethod
    def concluded(cls, model: PreTrainedModel, found: Stats) -> Stats:
        """The CKA matrix of every tower."""
        sums = []
        for span in towers(model):
            total = Minibatches(len(span))
            for at, size in enumerate(found[f"examples.{span[0]}"].tolist()):
                total.add(torch.stack([found[f"gram.{n}"][at, :size, :size] for n in span]))
            sums.append(total)
        return _stats(sums)

    def apply(self, model: PreTrainedModel, stats: Stats) -> Summary:
        """Take the blocks out that the modules can spare."""
        spans, before = towers(model), count_parameters(model)
        found = [
            [span[i] for i in module]
            for index, span in enumerate(spans)
            for module in modules(stats[f"matrix.{index}"], self.threshold, self.rule)
        ]
        gone = plan(found, self.k, fixed_blocks(model))
        kept = [block for span in spans for block in span if block not in set(gone)]
        remove_blocks(model, gone)
        return Summary(
            (Removed(tuple(gone)),) if gone else (),
            counts={
                "blocks": len(kept),
                "removed": len(gone),
                "parameters_before": before,
                "parameters": count_parameters(model),
                "dropped_examples": int(stats["dropped"].sum()),
            },
            details={
                "modules": found,
                "kept_per_stack": [len(stack.blocks) for stack in stacks(model)],
                "neighbours": neighbours([b for span in spans for b in span], set(kept), spans),
            },
            pictures=tuple(self._pictures(stats, spans, found)),
            label=f"T{self.threshold:g} K{self.k}",
        )

    def _pictures(
        self, stats: Stats, spans: Sequence[range], found: Sequence[Sequence[int]]
    ) -> Iterator[Heatmap]:
        for index, span in enumerate(spans):
            inside = [[b - span.start for b in module] for module in found if module[0] in span]
            tower = f"stack {index + 1}: " if len(spans) > 1 else ""
            yield Heatmap(
                f"{tower}{len(span)} blocks, {len(inside)} modules",
                _listed(stats[f"matrix.{index}"]),
                inside,
                label="CKA, percent",
                axis=f"block (modules: CKA from {self.threshold:g} % on)",
                high=100.0,
            )


@dataclass(frozen=True)
class SimilarityPerSample(Similarity):
    """The same with CKA per example, biased and averaged: the published BERT and T5 tables."""

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """The CKA matrix of every tower."""
        spans = towers(model)
        sums = [PerSample(len(span)) for span in spans]
        for batch in batches:
            found = [_positions(one) for one in outputs(model, batch)]
            for index, (span, total) in enumerate(zip(spans, sums, strict=True)):
                shapes = {found[i].shape[:2] for i in span}
                if len(shapes) > 1:
                    raise PlanError(
                        f"{cls.__name__} needs blocks with equally many positions, got "
                        f"{sorted(shape[1] for shape in shapes)}: use Similarity"
                    )
                mask = real_positions(batch, index)
                everything = torch.ones(shapes.pop(), dtype=torch.bool, device=found[0].device)
                rows = [found[i].to(found[0].device) for i in span]
                total.add(rows, everything if mask is None else mask)
        return _stats(sums)


def outputs(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Every block's output, in one forward."""
    found: dict[int, Tensor] = {}
    _watch(model, 0, lambda: run_blocks(model, reaching(model, batch)), found.__setitem__)
    return [found[number] for number in range(len(found))]


def _watch(
    model: PreTrainedModel, first: int, run: Callable[[], Any], see: Callable[[int, Tensor], Any]
) -> None:
    """Show the output of each block from `first` on, counted from there, while the model runs."""
    training = model.training
    model.eval()
    try:
        with watching(
            blocks(model)[first:],
            lambda number, _, output: see(number, output),
            f"{type(model).__name__}: blocks",
        ):
            run()
    finally:
        model.train(training)


def _flat(output: Tensor, mask: Tensor | None) -> Tensor:
    """One row per example, with zeros at pads."""
    if mask is not None:
        output = torch.where(mask[..., None].to(output.device), output, 0.0)
    return output.flatten(1)


def _positions(output: Tensor) -> Tensor:
    """(examples, positions, width), where images come as (examples, channels, height, width)."""
    return output if output.dim() == 3 else output.flatten(2).transpose(1, 2)


def _stats(sums: Sequence[Minibatches | PerSample]) -> Stats:
    used = torch.tensor([total.used for total in sums])
    dropped = torch.tensor([total.dropped for total in sums])
    if int(used.min()) == 0:
        raise PlanError(
            f"similarity: none of {int(dropped.max())} examples could be used; a minibatch needs "
            f"{SMALLEST} finite ones, an example two tokens"
        )
    if int(dropped.max()):
        log.warning("similarity: %d examples left out, %d used", dropped.max(), used.min())
    found: Stats = {f"matrix.{index}": total.matrix().cpu() for index, total in enumerate(sums)}
    return found | {"used": used, "dropped": dropped}


def _listed(matrix: Tensor) -> list[list[float | None]]:
    """For records: two decimals, None for NaN."""
    return [[round(v, 2) if v == v else None for v in row] for row in matrix.tolist()]
