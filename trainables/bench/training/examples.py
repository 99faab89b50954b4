"""Batches taken apart into examples and put together anew: what training shuffles."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from trainables.core.types import IGNORED, Batch

_FILL = {"labels": IGNORED}  # all else is filled up with zeros but the token numbers


def examples(batches: Iterable[Batch], *, apart: bool = False) -> list[Batch]:
    """One example each, without the padding its batch gave it.

    Args:
        apart: the labels are a text of their own (an encoder-decoder's).
    """
    return [
        _trimmed({name: value[index] for name, value in batch.items()}, apart)
        for batch in batches
        for index in range(len(next(iter(batch.values()))))
    ]


def shuffled(rows: Sequence[Batch], size: int, seed: int, filler: int = 0) -> Iterator[Batch]:
    """All examples in an order of the seed, as padded batches; a rest of one is left out.

    A batch of one example has no variance, which BatchNorm needs.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), size):
        picked = order[start : start + size]
        if len(picked) > 1 or start == 0:
            yield joined([rows[index] for index in picked], {**_FILL, "input_ids": filler})


def steps(count: int, size: int) -> int:
    """How many batches `shuffled` makes of `count` examples."""
    whole, rest = divmod(count, size)
    return max(whole + (rest > 1), 1)


def joined(rows: Sequence[Batch], fill: Mapping[str, int]) -> Batch:
    """A batch, every row filled up on the right to the longest."""
    return {name: _stacked([row[name] for row in rows], fill.get(name, 0)) for name in rows[0]}


def _stacked(values: Sequence[Tensor], fill: int) -> Tensor:
    if values[0].dim() != 1:
        return torch.stack(list(values))
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=fill)


def _trimmed(row: Batch, apart: bool) -> Batch:
    """Cut off what the attention mask hides, and the end of a target that is not predicted."""
    if "attention_mask" not in row:
        return row
    mask = row["attention_mask"].bool()
    own = {"labels", "decoder_input_ids", "decoder_attention_mask"} if apart else set()
    cut = {n: v[mask] if v.shape == mask.shape and n not in own else v for n, v in row.items()}
    if apart and "labels" in row and row["labels"].dim():
        predicted = (row["labels"] != IGNORED).nonzero()
        cut["labels"] = row["labels"][: int(predicted.max()) + 1 if len(predicted) else 1]
    return cut
