"""Text to token numbers to tensors, in the few ways the tasks need."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trainables.bench.data.prompts import Question
from trainables.core.types import IGNORED, Batch

Ids: TypeAlias = list[int]


def plain_ids(tokenizer: Any, text: str) -> Ids:
    """The text's own tokens, nothing in front or behind."""
    ids: Ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def opening(tokenizer: Any) -> Ids:
    """What the tokenizer puts in front of a text: its BOS, where it adds one."""
    first = tokenizer("a")["input_ids"][:1]
    return list(first) if first == [tokenizer.bos_token_id] else []


def question_ids(tokenizer: Any, item: Question, max_length: int) -> tuple[Ids, list[Ids]]:
    """The tokens of the prompt, and of each choice after it.

    Tokenized apart, so that all choices share one prompt. A long prompt loses its beginning. The
    first token of a choice needs one before it, if only a BOS or EOS.
    """
    choices = [plain_ids(tokenizer, choice)[: max_length - 1] for choice in item.choices]
    room = max_length - max(map(len, choices))
    start, ids = opening(tokenizer), plain_ids(tokenizer, item.prompt)
    if not start and not ids:
        start = [tokenizer.eos_token_id or 0]
    kept = ids[max(len(ids) - max(room - len(start), 0), 0) :]
    return [*start, *kept][:room], choices


def continued(tokenizer: Any, rows: Sequence[tuple[Ids, Ids]]) -> Batch:
    """A batch of rows that go on from a start; only what follows it is a label."""
    ids = [[*start, *rest] for start, rest in rows]
    labels = [[IGNORED] * len(start) + rest for start, rest in rows]
    return {
        "input_ids": stack(ids, filler(tokenizer)),
        "attention_mask": stack([[1] * len(row) for row in ids], 0),
        "labels": stack(labels, IGNORED),
    }


def pad(tokenizer: Any, encoded: Mapping[str, list[Ids]]) -> Batch:
    """What a tokenizer returned for several texts, as tensors of one length."""
    fill = {"input_ids": filler(tokenizer)}
    return {
        name: stack(encoded[name], fill.get(name, 0))
        for name in tokenizer.model_input_names
        if name in encoded
    }


def filler(tokenizer: Any) -> int:
    """The padding token's number; models that have none pad with their EOS, which is masked."""
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number)
    return 0


def stack(rows: Sequence[Ids], fill: int) -> Tensor:
    """Rows of different lengths as one matrix, filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
