"""Whether a model can take the data at all: asked before the first trial.

On a GPU a token or position that a model does not have is an assertion that spoils the process.
"""

from typing import Any

import torch
from torch import nn

from trainables.bench.data.roles import Data
from trainables.core.errors import DataError
from trainables.core.types import IGNORED, Batch, PreTrainedModel

_POSITIONS = ("position_embeddings", "embed_positions", "wpe", "position_embedding")


def check_fits(data: Data, model: PreTrainedModel) -> None:
    """Hold the data's batches, now and later, to the model's positions and tokens.

    Raises:
        DataError: `max_length` is more than the model has positions for, the tokenizer has tokens
            that the model does not, or it pads otherwise than the model expects.
    """
    if data.task == "image-classification":
        return
    most, longest = positions(model), _longest(data)
    if most is not None and longest > most:
        what = f"[data] max_length = {data.spec.max_length}"
        if longest > data.spec.max_length:
            what += f" and targets of up to {longest - data.spec.max_length} tokens to be written"
        raise DataError(f"{what}: the model has {most} positions", do="give less")
    embedded = model.get_input_embeddings()
    if isinstance(embedded, nn.Embedding):
        data.hold_to(lambda batch: _known(batch, embedded.num_embeddings))


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens in a row the model was built for; None where any number goes."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS:
            taken = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa
            return module.num_embeddings - int(getattr(module, "offset", taken))  # OPT, BART
    config: Any = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def _longest(data: Data) -> int:
    """Tokens of the longest row there may be, with what a decoder writes after its prompt."""
    most = data.spec.max_length
    if data.task != "generation":
        return most
    prompts, targets = [1], [1]
    for role in ("search", "held_out"):
        for batch in data.batches(role):
            predicted = batch["labels"] != IGNORED
            targets.append(int(predicted.sum(1).max()))
            given = batch["attention_mask"].bool()
            if not data.adapter.encoder_decoder:
                given &= ~predicted
            prompts.append(int(given.sum(1).max()))
    written = max(targets) + 1
    return max(most, written if data.adapter.encoder_decoder else max(prompts) + written)


def _known(batch: Batch, embedded: int) -> None:
    tokens = [batch["input_ids"], batch["labels"] if batch["labels"].dim() > 1 else None]
    highest = max(int(torch.max(ids)) for ids in tokens if ids is not None)
    if highest >= embedded:
        raise DataError(
            f"the tokenizer gives token {highest}, and the model has {embedded}",
            do="they do not belong together: give the model's own, or resize its embedding",
        )
