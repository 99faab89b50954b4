"""What a space may know of the model before it proposes anything; gathered by the baseline."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from trainables.stage import Bench, Facts


def gather(bench: Bench, space: Callable[..., Any]) -> Facts:
    """Look at the bench's model; families without blocks have none to tell of."""
    from trainables.bench.models.structure import fixed_blocks, stacks

    model = bench.model
    found = stacks(model)
    survey = hook(space, "survey")
    return Facts(
        blocks=sum(len(stack.blocks) for stack in found),
        stacks=tuple(len(stack.blocks) for stack in found),
        fixed=tuple(sorted(fixed_blocks(model))),
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
