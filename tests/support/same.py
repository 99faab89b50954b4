"""Whether two models are one."""

import torch
from transformers import PreTrainedModel


def same_tensors(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models of one architecture hold bit-identical tensors."""
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
