"""Types that annotations name, at no cost.

Importing transformers takes seconds. Workers need it; the driver imports every space and with it
every method, but never touches a model.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    Linear: TypeAlias = nn.Linear | nn.Conv2d | Conv1D
else:
    PretrainedConfig = object
    PreTrainedModel = Linear = nn.Module

__all__ = [
    "IGNORED",
    "Batch",
    "Linear",
    "PreTrainedModel",
    "PretrainedConfig",
    "Progress",
    "Result",
    "Stats",
    "Writing",
]

Batch: TypeAlias = dict[str, Tensor]  # what model(**batch) takes
Stats: TypeAlias = dict[str, Tensor]  # what calibration measured; stored as safetensors
Progress: TypeAlias = dict[str, float]  # what a long stage yields between its steps
Result = TypeVar("Result")
IGNORED = -100  # the label of a token that is not to be predicted


@dataclass(frozen=True)
class Writing:
    """What ends a text that a model writes, besides its own end.

    Attributes:
        stop: texts at which it ends, and which are no part of it.
        limit: so many tokens at most; None: as many as the longest target.
        ending: the tokens that end an answer, as in a turn of a chat.
    """

    stop: tuple[str, ...] = ()
    limit: int | None = None
    ending: tuple[int, ...] = ()
