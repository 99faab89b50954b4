"""Running a model block by block, for any family whose blocks hand on one hidden state; and looking
at any of its modules while it runs.

The model's own forward prepares the masks, positions and embeddings and applies the final norm
and the head; only the loop over the blocks is ours. No part of a family is written again here.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from trainables.bench.models.batches import reaching
from trainables.bench.models.structure import Stack, stacks
from trainables.core.errors import PlanError
from trainables.core.types import Batch, PreTrainedModel


@dataclass(frozen=True)
class Entry:
    """Where the walk of one batch begins: the state before block 0, and each block's arguments."""

    hidden: Tensor  # (batch, tokens, width)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]  # per block: what follows the hidden state


def walk_alone(model: PreTrainedModel) -> Stack:
    """The one stack of a model that can be run block by block; PlanError where it has several."""
    found = stacks(model)
    if len(found) != 1:
        raise PlanError(
            f"{type(model).__name__} has {len(found)} stacks of blocks; to run it block by block, "
            "as published, it must have one"
        )
    return found[0]


Act: TypeAlias = Callable[[int, Tensor, tuple[Any, ...], dict[str, Any]], Any]
Sight: TypeAlias = Callable[[int, Tensor], None]  # a block's number, the state before it


class _Tap(nn.Module):
    """Stands in for a block: what it is called with goes to the walk, whose answer it gives."""

    def __init__(self, block: nn.Module, walk: "Walk", index: int) -> None:
        super().__init__()
        object.__setattr__(self, "block", block)  # not registered: the tap owns no weights
        object.__setattr__(self, "walk", walk)
        self.index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "block"), name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        walk: Walk = object.__getattribute__(self, "walk")
        return walk.act(self.index, hidden, args, kwargs)


@dataclass
class Walk:
    """A model opened up at its blocks. The model itself is not changed."""

    model: PreTrainedModel
    blocks: Sequence[nn.Module] = field(init=False)
    act: Act = field(init=False)  # what a block's place does now

    def __post_init__(self) -> None:
        stack = walk_alone(self.model)
        self.blocks = list(stack.blocks)
        self._shell, owner = _opened(self.model, stack.owner)
        taps = [_Tap(block, self, index) for index, block in enumerate(self.blocks)]
        owner._modules[stack.name] = nn.ModuleList(taps)

    @torch.no_grad()
    def enter(self, batch: Batch) -> Entry:
        """Embed the batch and note each block's arguments; no block runs."""
        noted: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

        def note(_: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            noted.append((hidden, args, kwargs))
            return hidden

        self.act = note
        self._shell.base_model(**reaching(self.model, batch))
        return Entry(noted[0][0], [(args, kwargs) for _, args, kwargs in noted])

    def step(self, entry: Entry, index: int, hidden: Tensor) -> Tensor:
        """The state after block `index`."""
        args, kwargs = entry.calls[index]
        after = self.blocks[index](hidden, *args, **kwargs)
        state: Tensor = after[0] if isinstance(after, tuple) else after
        return state

    @torch.no_grad()
    def leave(self, batch: Batch, hidden: Tensor, **options: Any) -> Any:
        """The model's output for a state after the last block: final norm and head.

        Args:
            options: handed to the model's forward, such as `logits_to_keep`.
        """
        self.act = lambda *_: hidden
        return self._shell(**reaching(self.model, batch), **options)

    @torch.no_grad()
    def resume(
        self,
        batch: Batch,
        first: int = 0,
        hidden: Tensor | None = None,
        see: Sight | None = None,
        **options: Any,
    ) -> Any:
        """The model's output, with blocks run from `first` on; the model's own forward does it all,
        and what hangs on the blocks that run is called.

        Args:
            hidden: the state before that block; None before block 0, where the model makes it.
            see: looks at the state before each block that runs.
            options: handed to the model's forward.
        """

        def run(index: int, state: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if index < first:
                return state
            if index == first and hidden is not None:
                state = hidden
            if see is not None:
                see(index, state)
            return self.blocks[index](state, *args, **kwargs)

        self.act = run
        return self._shell(**reaching(self.model, batch), **options)


def _opened(model: PreTrainedModel, inner: nn.Module) -> tuple[PreTrainedModel, nn.Module]:
    """The model and one of its modules, with the modules on the way there its own, so that what
    hangs on that one can be replaced; all else is shared."""
    path = next(name for name, one in model.named_modules() if one is inner)
    shell = here = _own(model)
    for name in filter(None, path.split(".")):
        here._modules[name] = _own(here._modules[name])  # type: ignore[arg-type]
        here = here._modules[name]  # type: ignore[assignment]
    return shell, here  # type: ignore[return-value]


def _own(module: nn.Module) -> nn.Module:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


# -- looking at modules -----------------------------------------------------------------------

See: TypeAlias = Callable[[int, Tensor, Tensor], None]  # the module's number, its input, its output


@contextmanager
def watching(modules: Sequence[nn.Module], see: See, what: str = "modules") -> Iterator[None]:
    """While open, `see` is called for each call of a module, without gradients.

    Args:
        what: how the error calls the modules.

    Raises:
        PlanError: a module did not run before the end.
    """
    silent = set(range(len(modules)))

    def hang(number: int, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            silent.discard(number)
            given = args[0] if args else next(iter(kwargs.values()))
            see(number, given, out[0] if isinstance(out, tuple) else out)

        return module.register_forward_hook(hook, with_kwargs=True)

    handles = [hang(number, module) for number, module in enumerate(modules)]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
    if silent:
        raise PlanError(
            f"{what} {sorted(silent)} never ran on the calibration data",
            do="give data that reaches every block: targets, for an encoder-decoder",
        )
