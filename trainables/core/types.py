"""Types that annotations name, at no cost.

Importing transformers takes seconds. Workers need it; the driver imports every space and with it
every method, but never touches a model.
"""

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
]

Batch: TypeAlias = dict[str, Tensor]  # what model(**batch) takes
Stats: TypeAlias = dict[str, Tensor]  # what calibration measured; stored as safetensors
Progress: TypeAlias = dict[str, float]  # what a long stage yields between its steps
Result = TypeVar("Result")
IGNORED = -100  # the label of a token that is not to be predicted
