"""The router's data set: prompts, and how likely the right answer is under every omission set.

A set can break a model on a prompt, so that a likelihood is minus infinity or no number at all. It
then counts as the worst that was seen; a prompt without a single number teaches nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from trainables.core.errors import PlanError


@dataclass(frozen=True)
class RouterExample:
    """One item: a prompt and the right answer's mean log-likelihood under every set."""

    item: str  # names it, over all tasks
    prompt: str
    likelihood: tuple[float, ...]


@dataclass(frozen=True)
class Usable:
    """Examples all of whose likelihoods are numbers.

    Attributes:
        replaced: likelihoods that were none, and now are the worst.
        dropped: examples that had none at all.
    """

    examples: list[RouterExample]
    replaced: int = 0
    dropped: int = 0

    def told(self) -> str:
        """In words; empty where all was well."""
        return in_words(self.replaced, self.dropped)


def in_words(replaced: int, dropped: int) -> str:
    """What became of numbers that are none; empty where there were none."""
    parts = []
    if replaced:
        parts.append(f"{replaced} likelihoods are no finite numbers and count as the worst")
    if dropped:
        parts.append(f"{dropped} items have no finite likelihood and are left out")
    return "; ".join(parts)


def read_examples(path: Path) -> list[RouterExample]:
    """The router's data set, from its Parquet file."""
    rows = pq.read_table(path, columns=["item", "prompt", "likelihood"]).to_pylist()
    return [RouterExample(row["item"], row["prompt"], tuple(row["likelihood"])) for row in rows]


def usable(examples: Sequence[RouterExample]) -> Usable:
    """The examples as a router can learn from them. PlanError where none can be used."""
    rows, replaced, dropped = finite_rows([one.likelihood for one in examples])
    kept = [replace(one, likelihood=row) for one, row in zip(examples, rows, strict=True) if row]
    if not kept:
        raise PlanError(
            f"no likelihood of {len(examples)} items is a finite number",
            do="use bfloat16 or float32 weights, or other sets",
        )
    return Usable(kept, replaced, dropped)


def finite_rows(
    rows: Sequence[Sequence[float]],
) -> tuple[list[tuple[float, ...]], int, int]:
    """Rows in which the lowest finite value of all stands for what is no finite number, empty
    where a row has no finite value; how many values that were; how many rows are empty."""
    finite = [value for row in rows for value in row if math.isfinite(value)]
    worst = min(finite, default=0.0)
    found: list[tuple[float, ...]] = []
    replaced = 0
    for row in rows:
        good = [math.isfinite(value) for value in row]
        replaced += len(row) - sum(good) if any(good) else 0
        found.append(tuple(v if math.isfinite(v) else worst for v in row) if any(good) else ())
    return found, replaced, sum(not row for row in found)
