"""Running models from the block at which they first differ from one that ran on the same data.

States before blocks are kept by what was computed (identity.py) and by the data of a batch, and any
model that would compute the same begins there. The result is the whole model's, bit for bit: the
batches are the same, and so is all that runs. How many states are kept is decided from their size:
before every block of the bench's base if half of the room holds them, else before every second,
third, ...; of other models an eighth. A GPU computes some blocks in the time that writing a state
takes: there only the base's are kept, and far apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from trainables.bench.models.batches import beginning, reaching
from trainables.bench.models.blockwise import Walk
from trainables.bench.prefix.identity import Base, prefixes
from trainables.bench.prefix.states import States
from trainables.core.cache import Cache, digest, digest_tensors
from trainables.core.errors import PlanError
from trainables.core.types import Batch, PreTrainedModel
from trainables.stage import Subject

APART = {"cuda": 8}  # on which devices, and how many blocks between two states of the base
_STATE = "state"
_LENGTH = 32  # tokens to try a model on


class Forward(Protocol):
    """What a model says to a batch; `options` go to its forward."""

    def __call__(self, batch: Batch, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Whole:
    """The whole model, as ever."""

    model: PreTrainedModel

    def __call__(self, batch: Batch, **options: Any) -> Any:
        return self.model(**reaching(self.model, batch), **options)


@dataclass
class Work:
    """How many block-forwards were done, of how many there would be; one is a block on a batch."""

    done: int = 0
    whole: int = 0


@dataclass
class Prefixes:
    """What the models of one bench share.

    Attributes:
        salt: what else decides on the bits of a state: the code, the processor, its threads.
        why: why every model is run whole; empty where it is not.
    """

    base: Subject
    cache: Cache
    salt: str
    why: str = field(default="", init=False)
    states: States = field(init=False)
    _known: Base | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.states = States.of(self.cache)

    def ready(self, batch: Batch) -> bool:
        """Whether models can be run from a block on: tried once per base, on a few rows.

        Args:
            batch: of the data, as the base model reads it.
        """
        if self._known is None and not self.why:
            key = digest(self.base.lineage.key, self.salt, sorted(batch))
            self.why = str(
                self.cache.json("prefixes", key, lambda: [_trouble(self.base.model, batch)])[0]
            )
            self._known = Base(self.base.model, self.base.lineage.key)
        return not self.why

    def names(self, subject: Subject) -> list[str]:
        """What a model computes before each block, and after the last."""
        assert self._known is not None
        found = prefixes(subject.model, self._known, subject.lineage.key)
        return [digest(one, self.salt) for one in found]

    def forward(self, subject: Subject, batches: Sequence[Batch], work: Work) -> Forward:
        """A model as it runs on some batches.

        Args:
            batches: those it will be given, or like them: how much there is to keep.
        """
        model = subject.model
        known = type(model) is type(self.base.model) and not model.training  # nor its dropout
        if not batches or not known or not self.ready(batches[0]):
            return Whole(model)
        try:
            names = self.names(subject)
        except PlanError:  # not a stack of blocks any more
            return Whole(model)
        base, apart = subject.lineage == self.base.lineage, APART.get(model.device.type, 0)
        room = self.states.limit // 2 if base else 0 if apart else self.states.limit // 8
        return Resumed(model, names, self.states, batches, room, apart, work)


@torch.no_grad()
def _trouble(model: PreTrainedModel, batch: Batch) -> str:
    """Why a model cannot be run from a block on; empty where that gives what the whole gives."""
    few = beginning(batch, 2, _LENGTH)
    kind = type(model).__name__
    try:
        walk, seen = Walk(model), dict[int, Tensor]()
        whole = walk.resume(few, see=lambda index, state: seen.update({index: state.clone()}))
        wanted = Whole(model)(few).logits
        if not torch.equal(whole.logits, wanted):
            return f"{kind}: run block by block it says something else"
        for first in {1, len(seen) // 2, len(seen) - 1} & set(seen):
            if not torch.equal(walk.resume(few, first, seen[first]).logits, wanted):
                return f"{kind}: begun at block {first} it says something else"
    except PlanError as error:
        return str(error)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        return f"{kind}: cannot begin at a block: {type(error).__name__}: {error}".splitlines()[0]
    return ""


class Resumed:
    """A model that begins each batch at the last block before which its state is kept.

    Args:
        names: what is computed before each block.
        room: bytes for this model's states of these batches.
        apart: so many blocks at least lie between two of them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        names: Sequence[str],
        states: States,
        batches: Sequence[Batch],
        room: int,
        apart: int,
        work: Work,
    ) -> None:
        self.walk, self.names, self.work = Walk(model), names, work
        self.states, self.room, self.apart = states, room, apart
        self.size = sum(map(_numbers, batches))

    def __call__(self, batch: Batch, **options: Any) -> Any:
        first, hidden = self._kept(batch)
        return self.run(batch, first, hidden, **options)

    def run(self, batch: Batch, first: int, hidden: Tensor | None, **options: Any) -> Any:
        """From a block on, keeping states on the way."""
        data = self.data(batch)

        def see(index: int, state: Tensor) -> None:
            every = self._every(state, batch)
            if index > first and every and index % every == 0:
                self.states.keep(self._key(index, data), {_STATE: state})

        self.work.whole += len(self.walk.blocks)
        self.work.done += len(self.walk.blocks) - first
        return self.walk.resume(batch, first, hidden, see, **options)

    def state(self, batch: Batch, index: int) -> Tensor | None:
        """The state before a block, where it is kept, on the model's device."""
        found = self.states.find(self._key(index, self.data(batch))) if index else None
        return None if found is None else found[_STATE].to(self.walk.model.device)

    def _kept(self, batch: Batch) -> tuple[int, Tensor | None]:
        first = self.common([batch], len(self.walk.blocks))
        hidden = self.state(batch, first)
        return (0, None) if hidden is None else (first, hidden)

    def _every(self, state: Tensor, batch: Batch) -> int:
        """Before how many blocks a state is kept; 0: before none, as too few would fit."""
        whole = state.nbytes * self.size / max(_numbers(batch), 1) * len(self.walk.blocks)
        every = max(math.ceil(whole / max(self.room, 1)), self.apart)
        return every if every < len(self.walk.blocks) else 0

    def common(self, batches: Sequence[Batch], most: int) -> int:
        """The last block up to `most` before which all these batches' states are kept."""
        data = [self.data(batch) for batch in batches]
        downwards = range(min(most, len(self.walk.blocks) - 1), 0, -1)
        return next((n for n in downwards if all(self._has(n, one) for one in data)), 0)

    def _has(self, index: int, data: str) -> bool:
        return self.states.has(self._key(index, data))

    def data(self, batch: Batch) -> str:
        """Names what a batch gives a model to read."""
        return digest_tensors({name: one for name, one in batch.items() if name != "labels"})

    def _key(self, index: int, data: str) -> str:
        return digest(self.names[index], data)


def _numbers(batch: Mapping[str, Tensor]) -> int:
    """How much there is in a batch, to compare batches by."""
    return next(iter(batch.values())).numel()
