"""Losses that were measured before, kept in a file: what makes a repeated search free.

Every process appends to a file of its own and reads everybody's, so nobody waits for anybody. A
line is one JSON object, flushed to the disk before it counts; a torn last line is ignored.
"""

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

Key: TypeAlias = tuple[int, ...]  # the omitted units, sorted


class Memo:
    """Omission set -> loss, for one model, calibration and loss.

    Args:
        folder: where the files lie.
        key: names the model (its lineage), the calibration and the loss.
    """

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._mine = folder / f"{key}.{socket.gethostname()}-{os.getpid()}.jsonl"
        self.known: dict[Key, float] = {}
        for path in sorted(folder.glob(f"{key}.*.jsonl")):
            self.known.update(_entries(path))

    def add(self, losses: Mapping[Key, float]) -> None:
        """Remember losses, durably."""
        self.known.update(losses)
        lines = [json.dumps({"omit": omit, "loss": loss}) for omit, loss in losses.items()]
        _append(self._mine, lines)


def _entries(path: Path) -> Iterator[tuple[Key, float]]:
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
            yield tuple(entry["omit"]), float(entry["loss"])
        except (ValueError, KeyError, TypeError):
            continue


def _append(path: Path, lines: Iterable[str]) -> None:
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + "".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
