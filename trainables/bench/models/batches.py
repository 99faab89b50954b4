"""Batches as a model takes them: on its device, in its dtype, with or without targets."""

import inspect
from typing import Any

import torch
from torch import Tensor

from trainables.bench.models.cards import waiter
from trainables.core.alone import pause
from trainables.core.errors import PlanError
from trainables.core.types import IGNORED, Batch, PreTrainedModel


def ready(model: PreTrainedModel, batch: Batch, *, labels: bool = False) -> Batch:
    """A batch on the model's device and in its dtype; between two of them, who measures alone
    has its turn.

    Args:
        labels: keep the targets. An encoder-decoder's stay anyway: its decoder reads them.
    """
    pause(lambda: waiter(model)())
    keeps = labels or reads_targets(model)
    moved = {name: value.to(model.device) for name, value in batch.items()}
    return {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in moved.items()
        if keeps or name != "labels"
    }


def beginning(batch: Batch, rows: int, length: int) -> Batch:
    """A few rows to try a model on; of texts no more than their first tokens, where none of these
    is padding, and where all that there is of them may be cut."""
    few = {name: value[:rows] for name, value in batch.items()}
    ids = few.get("input_ids")
    if ids is None or any(v.dim() > 1 and v.shape != ids.shape for v in few.values()):
        return few
    if not bool(few.get("attention_mask", torch.ones_like(ids))[:, :length].all()):
        return few
    return {name: v[:, :length] if v.dim() > 1 else v for name, v in few.items()}


def reads_targets(model: PreTrainedModel) -> bool:
    """Whether it is an encoder-decoder, whose decoder is shown the targets."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def reaching(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """What `model(**...)` takes so that every block runs, and keeps nothing for later tokens.

    Raises PlanError for an encoder-decoder without targets: its decoder would have nothing to read.
    """
    if reads_targets(model) and not {"labels", "decoder_input_ids"} & set(batch):
        raise PlanError("the decoder's blocks run on targets: the data has no labels")
    kept = ready(model, batch)
    return {**kept, "use_cache": False} if "input_ids" in kept and _can_keep(model) else kept


def _can_keep(model: PreTrainedModel) -> bool:
    """Whether its forward may be told to keep nothing; a user's own may not know of it."""
    taken = inspect.signature(model.forward).parameters.values()
    return any(one.name == "use_cache" or one.kind is one.VAR_KEYWORD for one in taken)


def real_positions(batch: Batch, tower: int) -> Tensor | None:
    """Which positions are no padding, (examples, positions); None where all are.

    Args:
        tower: 0 for the stack that reads the input, 1 for a decoder that reads the targets, or
            where there is a class instead of a text, the input again.
    """
    if tower == 0 or ("labels" in batch and batch["labels"].dim() == 1):  # a class to tell
        mask = batch.get("attention_mask")
        return None if mask is None else mask.bool()
    if "decoder_attention_mask" in batch:
        return batch["decoder_attention_mask"].bool()
    return batch["labels"] != IGNORED if "labels" in batch else None
