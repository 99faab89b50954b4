"""The metrics a study can name, as plain data: read to check study files, so without torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from trainables.core.spec import Task

Direction = Literal["min", "max"]
_EVERY: frozenset[Task] = frozenset(get_args(Task))
_CHOOSING: frozenset[Task] = frozenset(("classification", "image-classification"))
_WRITING: frozenset[Task] = frozenset(("generation",))
_HARNESS: frozenset[Task] = frozenset(("language-modelling", "multiple-choice", "generation"))
_TOKENS: frozenset[Task] = frozenset(("language-modelling", "generation"))


@dataclass(frozen=True)
class MetricFacts:
    """What a study and a report need to know of a metric."""

    direction: Direction  # which way is better
    unit: str
    tasks: frozenset[Task]
    meaning: str
    low: float = 0.0
    high: float = math.inf
    timed: bool = False  # differs between two runs of the same model
    on: Literal["items", "batch", "weights"] = "items"  # what of a role it is measured on


METRIC_FACTS: dict[str, MetricFacts] = {
    "perplexity": MetricFacts(
        "min", "", _TOKENS, "exp of the mean negative log-likelihood per predicted token", low=1.0
    ),
    "loss": MetricFacts(
        "min", "nats", _TOKENS | _CHOOSING, "mean cross-entropy per predicted token or item"
    ),
    "accuracy": MetricFacts(
        "max",
        "share",
        _CHOOSING | {"multiple-choice"},
        "share of items whose right class, or right choice by summed log-likelihood, scores best",
        high=1.0,
    ),
    "accuracy_norm": MetricFacts(
        "max",
        "share",
        frozenset(("multiple-choice",)),
        "accuracy with each choice's log-likelihood divided by its characters",
        high=1.0,
    ),
    "macro_f1": MetricFacts(
        "max", "share", _CHOOSING, "mean F1 of the classes, each weighing the same", high=1.0
    ),
    "bleu": MetricFacts("max", "of 100", _WRITING, "corpus BLEU of the generated text", high=100.0),
    "rouge_1": MetricFacts("max", "share", _WRITING, "mean ROUGE-1 F1 of the texts", high=1.0),
    "rouge_2": MetricFacts("max", "share", _WRITING, "mean ROUGE-2 F1 of the texts", high=1.0),
    "rouge_lsum": MetricFacts(
        "max", "share", _WRITING, "mean ROUGE-Lsum F1 of the texts, a line a sentence", high=1.0
    ),
    "rouge_l": MetricFacts("max", "share", _WRITING, "mean ROUGE-L F1 of the texts", high=1.0),
    "meteor": MetricFacts(
        "max", "share", _WRITING, "mean METEOR of the texts' words, without punctuation", high=1.0
    ),
    "meteor_punctuation": MetricFacts(
        "max",
        "share",
        _WRITING,
        "mean METEOR with punctuation marks as tokens, as the usual evaluators have it",
        high=1.0,
    ),
    "exact_match": MetricFacts(
        "max", "share", _WRITING, "share of texts generated word for word", high=1.0
    ),
    "acc": MetricFacts(
        "max", "share", _HARNESS, "accuracy as lm-evaluation-harness has it", high=1.0
    ),
    "acc_stderr": MetricFacts("min", "share", _HARNESS, "standard error of acc"),
    "acc_norm": MetricFacts(
        "max", "share", _HARNESS, "the harness's accuracy by length of choices", high=1.0
    ),
    "acc_norm_stderr": MetricFacts("min", "share", _HARNESS, "standard error of acc_norm"),
    "parameters": MetricFacts(
        "min", "", _EVERY, "weights and biases, tied ones once", on="weights"
    ),
    "nonzero_parameters": MetricFacts(
        "min", "", _EVERY, "parameters that are not zero", on="weights"
    ),
    "bytes": MetricFacts(
        "min", "B", _EVERY, "size of the safetensors file that saving writes", on="weights"
    ),
    "latency_ms": MetricFacts(
        "min", "ms", _EVERY, "median time of a forward pass", timed=True, on="batch"
    ),
    "tokens_per_second": MetricFacts(
        "max",
        "1/s",
        _EVERY - {"image-classification"},
        "a batch's tokens by that time",
        timed=True,
        on="batch",
    ),
    "response_ms": MetricFacts(
        "min",
        "ms",
        _WRITING,
        "median time of the whole answer to one prompt, of 20 prompts",
        timed=True,
    ),
    "response_ms_p95": MetricFacts(
        "min",
        "ms",
        _WRITING,
        "the time that 95 of 100 such answers stay below",
        timed=True,
    ),
    "peak_memory": MetricFacts(
        "min",
        "B",
        _EVERY,
        "memory a forward pass takes, at most; for generation the model and what answering adds",
        timed=True,
        on="batch",
    ),
    "evaluation_seconds": MetricFacts(
        "min", "s", _EVERY, "time of the passes over the data for the task's metrics", timed=True
    ),
}


HARNESS_METRICS = ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")


def is_timed(name: str) -> bool:
    """Whether a metric differs between two runs of one model; a user's own is taken not to."""
    return name in METRIC_FACTS and METRIC_FACTS[name].timed
