"""Types that only annotations name, at no cost.

Importing transformers takes seconds. Workers need it; the driver imports every space and with it
every method, but never touches a model.
"""

from typing import TYPE_CHECKING, TypeAlias

from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    from trainables.bench.bench import Bench

    Linear: TypeAlias = nn.Linear | nn.Conv2d | Conv1D
else:
    PretrainedConfig = Bench = object
    PreTrainedModel = Linear = nn.Module

__all__ = ["Bench", "Linear", "PreTrainedModel", "PretrainedConfig"]
