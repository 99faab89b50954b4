"""Whether a model can take the data at all: asked before the first trial.

On a GPU a token or position that a model does not have is an assertion that spoils the process.
"""

from typing import Any

import torch
from torch import nn

from trainables.bench.data.roles import Data
from trainables.bench.data.split import MEASURED
from trainables.core.errors import DataError
from trainables.core.types import IGNORED, Batch, PreTrainedModel

_POSITIONS = ("position_embeddings", "embed_positions", "wpe", "position_embedding")


def check_fits(data: Data, model: PreTrainedModel) -> None:
    """Hold the data's batches, now and later, to the model's positions and tokens.

    Raises:
        DataError: `max_length` or a target is more than the model has positions for, or the
            tokenizer has tokens that the model does not.
    """
    if data.task == "image-classification":
        return
    apart = bool(getattr(model.config, "is_encoder_decoder", False))
    reads = positions(model.get_encoder() if apart else model)
    writes = positions(model.get_decoder()) if apart else reads
    _must_fit(f"[data] max_length = {data.spec.max_length}", data.spec.max_length, reads)
    if data.task == "generation":
        prompt, target = _longest(data)
        most = target if apart else prompt + target
        _must_fit(f"[data] targets of up to {target} tokens to be written", most, writes)
    embedded = model.get_input_embeddings()
    many = embedded.num_embeddings if isinstance(embedded, nn.Embedding) else None
    data.hold_to(lambda batch: _must_be_known(batch, many, writes if apart else None))


def _must_fit(what: str, tokens: int, most: int | None) -> None:
    if most is not None and tokens > most:
        raise DataError(f"{what}: the model has {most} positions", do="make max_length less")


def positions(model: Any) -> int | None:
    """How many tokens in a row the model was built for; None where any number goes."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS:
            taken = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa
            return module.num_embeddings - int(getattr(module, "offset", taken))  # OPT, BART
    config: Any = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def _longest(data: Data) -> tuple[int, int]:
    """Tokens of the longest prompt, and of the longest text that is written for one."""
    prompts, targets = [1], [1]
    for role in MEASURED:
        for batch in data.batches(role):
            predicted = batch["labels"] != IGNORED
            targets.append(int(predicted.sum(1).max()))
            if not data.adapter.encoder_decoder:
                prompts.append(int((batch["attention_mask"].bool() & ~predicted).sum(1).max()))
    written = data.writing.limit or max(targets) + 1
    return max(prompts), max(written, max(targets) + 1)


def _must_be_known(batch: Batch, embedded: int | None, writes: int | None) -> None:
    targets = batch["labels"] if batch["labels"].dim() > 1 else None
    if targets is not None:
        _must_fit(f"[data] targets of {targets.shape[1]} tokens", targets.shape[1], writes)
    tokens = [batch["input_ids"], targets]
    highest = max(int(torch.max(ids)) for ids in tokens if ids is not None)
    if embedded is not None and highest >= embedded:
        raise DataError(
            f"the tokenizer gives token {highest}, and the model has {embedded}",
            do="they do not belong together: give the model's own, or resize its embedding",
        )
