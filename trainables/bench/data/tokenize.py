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


def following(tokenizer: Any, prompt: str, ids: Ids, text: str) -> Ids:
    """The tokens of a text after a prompt: those it has in the joined text.

    Where the joined text parts at another place than between the two, those it has by itself.

    Args:
        ids: the prompt's own tokens.
    """
    if ids:
        joined = plain_ids(tokenizer, prompt + text)
        if joined[: len(ids)] == ids and len(joined) > len(ids):
            return joined[len(ids) :]
    return plain_ids(tokenizer, text)


def choice_rows(tokenizer: Any, item: Question, max_length: int) -> list[tuple[Ids, Ids]]:
    """For each choice the tokens before it, and its own."""
    if not item.contexts:
        start, choices = question_ids(tokenizer, item, max_length)
        return [(start, choice) for choice in choices]
    rows = []
    for context, choice in zip(item.contexts, item.choices, strict=True):
        one = Question(context, (choice,), 0)
        start, choices = question_ids(tokenizer, one, max_length)
        rows.append((start, choices[0]))
    return rows


def question_ids(tokenizer: Any, item: Question, max_length: int) -> tuple[Ids, list[Ids]]:
    """The tokens of the prompt, and of each choice after it.

    A long prompt loses its beginning. The first token of a choice needs one before it, if only a
    BOS, or an EOS where there is no such thing.
    """
    start, ids = opening(tokenizer), plain_ids(tokenizer, item.prompt)
    choices = [
        following(tokenizer, item.prompt, ids, choice)[: max_length - 1] for choice in item.choices
    ]
    room = max_length - max(map(len, choices))
    if not start and not ids:
        start = [first_token(tokenizer)]
    kept = ids[max(len(ids) - max(room - len(start), 0), 0) :]
    return [*start, *kept][:room], choices


def first_token(tokenizer: Any) -> int:
    """What stands for a text without tokens: a BOS, or an EOS where there is no such thing."""
    for number in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number)
    return 0


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
    """What a tokenizer returned for several texts, as tensors of one length.

    A text that has no tokens gets one to be read, a BOS or EOS.
    """
    fill = {"input_ids": filler(tokenizer)}
    alone = {"input_ids": first_token(tokenizer), "attention_mask": 1}
    return {
        name: stack([row or [alone.get(name, 0)] for row in encoded[name]], fill.get(name, 0))
        for name in tokenizer.model_input_names
        if name in encoded
    }


def filler(tokenizer: Any) -> int:
    """The padding token's number; models that have none pad with their EOS, which is masked."""
    for name in ("pad_token_id", "eos_token_id"):
        if (number := getattr(tokenizer, name, None)) is not None:
            return int(number)
    return 0


def unknown_id(tokenizer: Any) -> int | None:
    """The number of the token for what is not in the vocabulary, where there is one."""
    if tokenizer.unk_token_id is not None:
        return int(tokenizer.unk_token_id)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    unknown = getattr(getattr(backend, "model", None), "unk_token", None)
    return None if backend is None or unknown is None else backend.token_to_id(unknown)


def stack(rows: Sequence[Ids], fill: int, *, left: bool = False) -> Tensor:
    """Rows of different lengths as one matrix, filled up on the right, or on the left."""
    longest = max(map(len, rows))
    filled = [(row, [fill] * (longest - len(row))) for row in rows]
    return torch.tensor([rest + row if left else row + rest for row, rest in filled])
