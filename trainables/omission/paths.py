"""Omission sets as paths through the blocks that are left, and the states kept on them."""

from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from trainables.core.errors import PlanError

Unit: TypeAlias = Literal["block", "attention", "ffn", "both"]
Part: TypeAlias = Literal["block", "attention", "ffn"]
Step: TypeAlias = tuple[int, Part]  # run this block, or only this part of it
Kept: TypeAlias = tuple[Step, ...]


def path(omit: Collection[int], blocks: int, unit: Unit = "block") -> Kept:
    """What is left to run. Units are numbered like blocks; with `both`, attention of block b is
    2b and its FFN 2b + 1."""
    size = 2 * blocks if unit == "both" else blocks
    if unknown := sorted(set(omit) - set(range(size))):
        raise PlanError(f"no {unit} {unknown}: the model has 0 to {size - 1}")
    steps: list[Step] = []
    for block in range(blocks):
        parts = _parts(block, omit, unit)
        if len(parts) == 2:
            steps.append((block, "block"))
        elif parts:
            steps.append((block, parts[0]))
    return tuple(steps)


def _parts(block: int, omit: Collection[int], unit: Unit) -> list[Part]:
    gone = {
        "block": (block in omit, block in omit),
        "attention": (block in omit, False),
        "ffn": (False, block in omit),
        "both": (2 * block in omit, 2 * block + 1 in omit),
    }[unit]
    names: tuple[Part, Part] = ("attention", "ffn")
    return [name for name, is_gone in zip(names, gone, strict=True) if not is_gone]


def common(paths: Sequence[Kept]) -> Kept:
    """The steps that all paths begin with."""
    first, last = min(paths), max(paths)  # of sorted ones these differ soonest
    for length, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return first[:length]
    return first[: len(last)]


class Recent:
    """States kept within a number of bytes, those used last.

    Args:
        room: bytes.
    """

    def __init__(self, room: int) -> None:
        self.room, self.held = room, 0
        self._known: dict[tuple[int, Kept], Tensor] = {}

    def find(self, key: tuple[int, Kept]) -> Tensor | None:
        """A state, if it is still there."""
        if (found := self._known.pop(key, None)) is not None:
            self._known[key] = found  # the last again
        return found

    def keep(self, key: tuple[int, Kept], state: Tensor) -> None:
        """Keep a state, and let go of others for it."""
        if state.nbytes > self.room:
            return
        self._known[key] = state
        self.held += state.nbytes
        while self.held > self.room:
            gone = self._known.pop(next(iter(self._known)))
            self.held -= gone.nbytes
