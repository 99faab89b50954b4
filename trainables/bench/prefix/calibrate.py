"""Calibrating from the block at which a model first differs from one that was calibrated before."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from trainables.bench.models.batches import reaching
from trainables.bench.models.structure import leaves_out_logits, run_blocks
from trainables.bench.prefix.forward import Prefixes, Resumed, Work
from trainables.core.cache import digest
from trainables.core.types import Batch, PreTrainedModel, Stats
from trainables.stage import Subject

Run: TypeAlias = Callable[[Batch], Any]  # lets a batch run through the blocks that are looked at


class ByBlock(ABC):
    """A calibration whose numbers each belong to one block, and hang on that block and those before
    it alone. So it can begin at any block, and what it found of blocks is found for all models that
    compute the same up to there."""

    @classmethod
    def inputs(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Iterable[Batch]:
        """What is run, one after the other; by default the batches."""
        return batches

    @classmethod
    @abstractmethod
    def measure(
        cls, model: PreTrainedModel, inputs: Iterable[Batch], run: Run, first: int
    ) -> Stats:
        """Run all inputs, and say what is found of the blocks from `first` on."""

    @classmethod
    @abstractmethod
    def owned(cls, model: PreTrainedModel) -> list[list[str]]:
        """The names of each block's numbers."""

    @classmethod
    def concluded(cls, model: PreTrainedModel, found: Stats) -> Stats:
        """What follows from all blocks' numbers together; by default they themselves."""
        return found

    @classmethod
    def calibrate(cls, model: PreTrainedModel, batches: Iterable[Batch]) -> Stats:
        """Measure all blocks, on whole passes."""

        def run(batch: Batch) -> None:
            run_blocks(model, reaching(model, batch))

        return cls.concluded(model, cls.measure(model, cls.inputs(model, batches), run, 0))


def calibrated(
    method: type[ByBlock],
    source: str,
    prefixes: Prefixes,
    subject: Subject,
    batches: Sequence[Batch],
    work: Work,
) -> Stats:
    """What a method's calibration measures on a model, with whole passes or without.

    Args:
        source: the version of its code.
        batches: on the CPU.
    """
    if _plainly(method):
        return method.calibrate(subject.model, batches)
    inputs, owned = list(method.inputs(subject.model, batches)), method.owned(subject.model)
    forward = prefixes.forward(subject, inputs, work)
    names = [name for block in owned for name in block]
    if not isinstance(forward, Resumed) or len(set(names)) < len(names):
        return method.calibrate(subject.model, batches)
    return method.concluded(subject.model, _from_block(method, source, forward, inputs, owned))


def _plainly(method: type[ByBlock]) -> bool:
    """Whether a class derived from one that goes by blocks calibrates in a way of its own."""
    return method.calibrate.__func__ is not ByBlock.calibrate.__func__  # type: ignore[attr-defined]


def _from_block(
    method: type[ByBlock],
    source: str,
    forward: Resumed,
    inputs: Sequence[Batch],
    owned: Sequence[Sequence[str]],
) -> Stats:
    model, states = forward.walk.model, forward.states
    data = digest([forward.data(batch) for batch in inputs])
    keys = [digest("stats", source, name, data) for name in forward.names[1:]]
    found, first = Stats(), 0
    for key in keys:
        if (kept := states.find(key)) is None:
            break
        found, first = {**found, **kept}, first + 1
    if first == len(keys):
        forward.work.whole += len(keys) * len(inputs)
        return found
    start = forward.common(inputs, first)
    options = {"logits_to_keep": 1} if leaves_out_logits(model) else {}

    def run(batch: Batch) -> None:
        state = forward.state(batch, start)
        forward.run(batch, 0 if state is None else start, state, **options)

    measured = method.measure(model, inputs, run, first)
    for key, names in zip(keys[first:], owned[first:], strict=True):
        states.keep(key, {name: measured[name] for name in names})
    return {**found, **measured}
