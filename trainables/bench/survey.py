"""What a space may know of the model before it proposes anything; gathered by the baseline."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trainables.core.types import Bench


@dataclass(frozen=True)
class Facts:
    """Plain data, so that the driver needs no model.

    Attributes:
        blocks: how many residual blocks, numbered 0 to blocks - 1 through all stacks.
        stacks: blocks per stack (T5: encoder, decoder; ResNet: stages).
        fixed: blocks that can never be removed.
        neurons: FFN neurons per block; () where the family has none.
        parameters: all of them, ties once.
        survey: what the space asked to be measured (its module's `survey(bench)`).
    """

    blocks: int
    stacks: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    neurons: tuple[int, ...] = ()
    parameters: int = 0
    survey: dict[str, Any] = field(default_factory=dict)


def gather(bench: Bench, space: Callable[..., Any]) -> Facts:
    """Look at the bench's model; families without blocks have none to tell of."""
    from trainables.bench.models.structure import family, fixed_blocks, reach, stacks

    model = bench.model
    row, found = family(model), stacks(model)
    neurons = tuple(
        sum(p.numel() for p in reach(block, row.contract).parameters() if p.dim() == 2)
        // model.config.hidden_size
        for stack in found
        for block in stack.blocks
        if row.contract and hasattr(model.config, "hidden_size")
    )
    survey = hook(space, "survey")
    return Facts(
        blocks=sum(len(stack.blocks) for stack in found),
        stacks=tuple(len(stack.blocks) for stack in found),
        fixed=tuple(sorted(fixed_blocks(model))),
        neurons=neurons,
        parameters=sum(p.numel() for p in model.parameters()),
        survey=survey(bench) if survey else {},
    )


def hook(space: Callable[..., Any], name: str) -> Callable[..., Any] | None:
    """An optional function beside a space in its module, such as `survey` or `starts`.

    It gets the study's `[space]` overrides where it takes them.
    """
    function = space.func if isinstance(space, partial) else space
    found = getattr(sys.modules[function.__module__], name, None)
    return found if callable(found) else None
