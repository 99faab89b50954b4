"""The metrics of a bench, by name.

A user's own metric is a function of the same `Evaluation`, named by where it is to be imported
from: its `model`, `data`, `role` and `processor`, `batches()` for the rows of its role. It gives a
number, or one for each item.
"""

import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainables.bench.data.prompts import Question
from trainables.bench.metrics import cost, text_scores
from trainables.bench.metrics.catalogue import HARNESS_METRICS, METRIC_FACTS, is_timed
from trainables.bench.metrics.predictions import Evaluation, finite
from trainables.bench.metrics.race import Race, Runner, shares
from trainables.bench.prefix.forward import Forward
from trainables.core.errors import MetricError, near
from trainables.core.scores import ItemScores, Rule, mean_of
from trainables.core.spec import Role
from trainables.stage import Bench

Metric: TypeAlias = Callable[[Evaluation], Any]  # built in, or a user's own


class Measure(NamedTuple):
    """A metric's number, and what it is made of where that is items."""

    value: float
    scores: ItemScores | None = None
    alone: bool | None = None  # of times and memory: whether nobody else computed there


def _loss(made: Evaluation) -> ItemScores:
    if made.data.task in ("classification", "image-classification"):
        return mean_of(made.decisions.losses.numpy())
    return _per_token(made, "ratio")


def _perplexity(made: Evaluation) -> ItemScores:
    return _per_token(made, "exp-ratio")


def _per_token(made: Evaluation, rule: Rule) -> ItemScores:
    sums, counts = made.token_losses
    return ItemScores(rule, {"value": sums.numpy(), "weight": counts.numpy()})


def _accuracy(made: Evaluation) -> ItemScores:
    if made.data.task == "multiple-choice":
        return _right(made, lambda item: [1] * len(item.choices))
    found = made.decisions
    return mean_of((found.predicted == found.wanted).numpy())


def _accuracy_norm(made: Evaluation) -> ItemScores:
    """As the common evaluation harness has it: by characters, the space in front left out."""
    return _right(made, lambda item: item.characters)


def _right(made: Evaluation, lengths_of: Callable[[Question], Sequence[int]]) -> ItemScores:
    hits = []
    for item, scores in zip(made.items, made.choices, strict=True):
        lengths = torch.tensor([max(float(length), 1.0) for length in lengths_of(item)])
        hits.append(int((scores / lengths).argmax()) == item.answer)
    return mean_of(hits)


def _macro_f1(made: Evaluation) -> ItemScores:
    """Mean F1 over the classes that occur, in the data or in what was predicted."""
    found = made.decisions
    columns = {"predicted": found.predicted.numpy(), "wanted": found.wanted.numpy()}
    return ItemScores("macro-f1", columns)


def _text_score(score: Callable[[Sequence[str], Sequence[str]], ItemScores]) -> Metric:
    return lambda made: score(made.texts, made.references)


def _harness(name: str) -> Metric:
    def score(made: Evaluation) -> float:
        if name not in made.harness:
            raise MetricError(f"{name}: not every task of [data] harness has it")
        return made.harness[name]

    return score


_PASSES = {
    "language-modelling": "token_losses",
    "classification": "decisions",
    "image-classification": "decisions",
    "multiple-choice": "choices",
    "generation": "texts",
}


def _seconds(made: Evaluation) -> float:
    getattr(made, _PASSES[made.data.task])
    return made.seconds


def _peak_memory(made: Evaluation) -> int:
    if made.data.task == "generation":
        return made.writing_memory
    return cost.peak_memory(made.model, made.data.batches(made.role)[0])


METRICS: dict[str, Metric] = {
    "perplexity": _perplexity,
    "loss": _loss,
    "accuracy": _accuracy,
    "accuracy_norm": _accuracy_norm,
    "macro_f1": _macro_f1,
    "bleu": _text_score(text_scores.bleu),
    "rouge_1": _text_score(text_scores.rouge_1),
    "rouge_2": _text_score(text_scores.rouge_2),
    "rouge_lsum": _text_score(text_scores.rouge_lsum),
    "rouge_l": _text_score(text_scores.rouge_l),
    "meteor": _text_score(text_scores.meteor),
    "meteor_punctuation": _text_score(text_scores.meteor_punctuation),
    "exact_match": _text_score(text_scores.exact_match),
    **{name: _harness(name) for name in HARNESS_METRICS},
    "parameters": lambda made: cost.count_parameters(made.model),
    "nonzero_parameters": lambda made: cost.count_nonzero(made.model),
    "bytes": lambda made: cost.saved_bytes(made.model),
    "latency_ms": lambda made: 1000 * made.pace.seconds,
    "tokens_per_second": lambda made: made.pace.tokens / made.pace.seconds,
    "response_ms": lambda made: statistics.median(made.response_times),
    "response_ms_p95": lambda made: float(np.quantile(made.response_times, 0.95)),
    "peak_memory": _peak_memory,
    "evaluation_seconds": _seconds,
}


def measure_all(bench: Bench, names: Sequence[str], role: Role) -> dict[str, float]:
    """The named metrics of the bench's model on a role.

    Raises:
        MetricError: a metric is unknown, does not fit the task, or is no finite number.
    """
    return {name: one.value for name, one in measure_items(bench, names, role).items()}


def measure_items(
    bench: Bench,
    names: Sequence[str],
    role: Role,
    race: Race | None = None,
    known: Mapping[str, float] | None = None,
    forward: Forward | None = None,
) -> dict[str, Measure]:
    """The same, with what each item scored.

    Args:
        race: what the model runs against; None where it is measured whole, come what may.
        known: metrics that count in the race and were measured before.
        forward: runs the bench's model on a batch; what is timed runs all of it.

    Raises:
        OutOfRace: the model cannot win.
    """
    made = Evaluation(bench, role, None if "evaluation_seconds" in names else forward)
    timed = [name for name in names if is_timed(name)]
    free = [name for name in names if name in METRIC_FACTS and METRIC_FACTS[name].on == "weights"]
    others = [name for name in names if name not in (*timed, *free)]
    found = {name: _measure(name, made) for name in free}
    with made.alone() if "evaluation_seconds" in names else nullcontext():
        if "evaluation_seconds" in names:  # whose passes are those of the others
            made.warm_up()
        if race is not None:
            costs = {**(known or {}), **{name: one.value for name, one in found.items()}}
            _run(Runner(race, costs), made, [name for name in others if _races(name, made, race)])
        found |= {name: _measure(name, made) for name in others}
        with made.alone() if timed else nullcontext(True) as alone:
            order = sorted(timed, key=lambda name: name == "evaluation_seconds")
            found |= {name: _measure(name, made)._replace(alone=alone) for name in order}
    return {name: found[name] for name in names}


def _races(name: str, made: Evaluation, race: Race) -> bool:
    """Whether a metric can be had of some items, and decides something."""
    ours = name in METRIC_FACTS and name not in (*made.spec.metrics, *HARNESS_METRICS)
    return ours and name in race.watched and made.data.task in METRIC_FACTS[name].tasks


def _run(runner: Runner, made: Evaluation, names: Sequence[str]) -> None:
    """Look at growing shares of the items, as long as the model can win."""
    sizes = [len(items) for items in made.data.by_batch(made.role)]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    runner.look((), sum(sizes), {})
    for batches in shares(len(sizes), runner.race.first, runner.race.factor) if names else ():
        made.look_at(batches)
        items = [starts[at] + place for at in batches for place in range(sizes[at])]
        runner.look(items, sum(sizes), {name: METRICS[name](made) for name in names})
    made.look_at(None)


def _measure(name: str, made: Evaluation) -> Measure:
    own = made.spec.metrics
    if name in own:
        return _read(name, load_metric(own[name])(made), made)
    if name not in METRICS:
        known = (*METRICS, *own)
        raise MetricError(
            f'no metric "{name}"{near(name, known)}; there are {", ".join(known)}, and your own '
            'in [metrics] NAME = "package.module:function"'
        )
    tasks = METRIC_FACTS[name].tasks
    if made.data.task not in tasks:
        raise MetricError(f"{name} is for {', '.join(sorted(tasks))}, not for {made.data.task}")
    return _read(name, METRICS[name](made), made)


def _read(name: str, found: Any, made: Evaluation) -> Measure:
    """A metric's number; a user's own may give a number for each item, whose mean it then is."""
    if isinstance(found, Tensor | np.ndarray | list | tuple) and np.ndim(found) == 1:
        values = np.asarray(found, dtype=float)
        if len(values) != (items := len(made.items)):
            raise MetricError(f"{name}: {len(values)} numbers", allowed=f"one for each of {items}")
        found = mean_of(values)
    if isinstance(found, ItemScores):
        return Measure(finite(name, found.total()), found)
    return Measure(finite(name, float(found)))


def load_metric(where: str) -> Metric:
    """A user's metric by `package.module:function`."""
    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MetricError(
            f'metric "{where}" could not be imported: {error}. It must read '
            '"package.module:function", importable where the study runs'
        ) from error
    if not callable(found):
        raise MetricError(f'metric "{where}" is a {type(found).__name__}, not a function')
    function: Metric = found
    return function
