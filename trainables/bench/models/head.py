"""What a fine-tuned model says of its own head: the classes it tells apart, and in which order."""

import re
from typing import Any

from trainables.bench.data.tokenize import filler
from trainables.bench.models.structure import family
from trainables.core.spec import Task
from trainables.core.types import PretrainedConfig, PreTrainedModel

_HEADS = ("ForSequenceClassification", "ForImageClassification")


def head_classes(config: PretrainedConfig, task: Task) -> tuple[str, ...]:
    """The classes of the head that the weights bring; () where they bring none.

    Classes without a name are called LABEL_0, LABEL_1, ... as transformers does.
    """
    made = " ".join(getattr(config, "architectures", None) or ())
    if "classification" not in task or not any(re.search(rf"{head}\b", made) for head in _HEADS):
        return ()
    names: dict[Any, str] = config.id2label
    return tuple(str(names[number]) for number in sorted(names, key=int))


def pad_as(model: PreTrainedModel, tokenizer: Any, task: Task) -> None:
    """Tell a decoder that classifies which token is padding: it looks at the last one that is not,
    so that else its answer depends on what it shares a batch with."""
    if task == "classification" and family(model).causal:
        model.config.get_text_config().pad_token_id = filler(tokenizer)
