"""EleutherAI's lm-evaluation-harness on the model as it is in memory: `acc`, `acc_norm`.

Its tasks bring their own questions, prompts and scores; only the likelihoods are computed here.
A role sees its own part of a task's questions, so that none decides and judges. Imported only
where a study names such tasks: the library is an optional extra.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from trainables.bench.data.prompts import Question
from trainables.bench.data.tokenize import Ids, continued, question_ids
from trainables.bench.models.batches import ready
from trainables.bench.models.structure import last_logits
from trainables.core.cache import digest
from trainables.core.errors import MetricError, UserError, near
from trainables.core.spec import DataSpec, Role
from trainables.core.types import IGNORED, PreTrainedModel

SCORES = ("acc", "acc_norm")
KINDS = ("multiple_choice", "loglikelihood")
Answer: TypeAlias = dict[str, Any]


def harness_scores(
    model: PreTrainedModel, tokenizer: Any, spec: DataSpec, role: Role, seed: int
) -> dict[str, float]:
    """Means over the tasks, and the standard errors of these means.

    Raises:
        MetricError: there is no such task, or its questions cannot be had.
    """
    if spec.harness is None:
        raise MetricError("acc and acc_norm need tasks", do='[data] harness = "arc_easy,piqa"')
    counts = task_sizes(spec.harness)
    picked = {name: _part(count, spec, role, f"{seed} {name}") for name, count in counts.items()}
    found = _evaluated(model, tokenizer, spec, picked)
    return dict(_means([found["results"][name] for name in counts]))


def harness_answers(
    model: PreTrainedModel, tokenizer: Any, spec: DataSpec, picked: Mapping[str, Sequence[int]]
) -> dict[str, list[Answer]]:
    """Every question on its own, as tasks of choices score it.

    Args:
        picked: task -> the numbers of the questions to ask.

    Returns:
        task -> for each question its `prompt`, and `acc` and `acc_norm` where the task has them.
    """
    found = _evaluated(model, tokenizer, spec, picked, samples=True)["samples"]
    return {
        name: [
            {"prompt": one["arguments"][0][0]}
            | {score: float(one[score]) for score in SCORES if score in one}
            for one in sorted(found[name], key=lambda one: one["doc_id"])
        ]
        for name in picked
    }


def task_sizes(harness: str) -> dict[str, int]:
    """How many questions each of the named tasks has.

    Raises:
        MetricError: there is no such task, or its questions cannot be had.
    """
    with _blaming(harness):
        return _tasks(harness, _contents(harness))[1]


def task_contents(harness: str) -> dict[str, str]:
    """What each of the named tasks asks, by its content and the library's version."""
    with _blaming(harness):
        manager, counts = _tasks(harness, _contents(harness))
        tasks = manager.load(list(counts))["tasks"]
        version = metadata.version("lm_eval")
        return {
            name: digest(
                version, tasks[name].dump_config(), [str(d) for d in tasks[name].eval_docs]
            )
            for name in counts
        }


def _evaluated(
    model: PreTrainedModel,
    tokenizer: Any,
    spec: DataSpec,
    picked: Mapping[str, Sequence[int]],
    *,
    samples: bool = False,
) -> dict[str, Any]:
    """The harness's own answer on some questions of the tasks."""
    assert spec.harness is not None
    with _blaming(spec.harness):
        manager, _ = _tasks(spec.harness, _contents(spec.harness))
        found: dict[str, Any] = simple_evaluate(
            _Resident(model, tokenizer, spec),
            tasks=list(picked),
            task_manager=manager,
            samples={name: list(numbers) for name, numbers in picked.items()},
            log_samples=samples,
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
        return found


@contextmanager
def _blaming(harness: str) -> Iterator[None]:
    """What the library raises, as a message for the user."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MetricError(f'harness = "{harness}": {error}') from error


def _contents(harness: str) -> tuple[str, ...]:
    return tuple(Path(n).read_text() for n in _names(harness) if Path(n).is_file())


def _names(harness: str) -> list[str]:
    return [part.strip() for part in harness.split(",")]


@lru_cache(maxsize=2)
def _tasks(harness: str, contents: tuple[str, ...]) -> tuple[TaskManager, dict[str, int]]:
    """The tasks' names with how many questions each has; read once while their files stay."""
    names = _names(harness)
    folders = [str(Path(name).parent) for name in names if _is_file(name)]
    ours = all(map(_is_file, names))
    manager = TaskManager(include_path=folders or None, include_defaults=not ours)
    wanted = [_task_of(name, manager) for name in names]
    found = manager.load(wanted)
    if found["groups"] or set(found["tasks"]) != set(wanted):
        do = f"name its tasks: {', '.join(list(found['tasks'])[:8])}"
        raise MetricError(f'harness = "{harness}" names a group of tasks', do=do)
    for name in wanted:
        if (kind := found["tasks"][name].config.output_type) not in KINDS:
            what = f'harness: task "{name}" is of type {kind}'
            raise MetricError(what, allowed="tasks of choices, which have acc")
    return manager, {name: len(list(found["tasks"][name].eval_docs)) for name in wanted}


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _task_of(name: str, manager: TaskManager) -> str:
    """A task's name, from its file where a study gives that."""
    if _is_file(name):
        path = Path(name)
        told = re.search(r"^task:\s*(\S+)", path.read_text(), re.M) if path.is_file() else None
        if told is None:
            raise MetricError("harness: no file of a task", got=name)
        return told[1]
    if name not in manager.all_tasks:
        raise MetricError(
            f'harness: no task "{name}"{near(name, manager.all_tasks)}',
            allowed="a name that `lm_eval ls tasks` lists, or a task's .yaml file",
        )
    return name


def _part(count: int, spec: DataSpec, role: Role, seed: str) -> list[int]:
    """Which questions a role sees: held-out ones first, then the search's, none twice."""
    order = random.Random(seed).sample(range(count), count)
    held_out = min(spec.items.held_out, count // 2)
    start = 0 if role == "held_out" else held_out
    return sorted(order[start : start + getattr(spec.items, role)] if start else order[:held_out])


def _means(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    for name in SCORES:
        values = [one[f"{name},none"] for one in results if f"{name},none" in one]
        errors = [one[f"{name}_stderr,none"] for one in results if f"{name},none" in one]
        if len(values) == len(results):  # a mean over some of the tasks would be another thing
            yield name, sum(values) / len(values)
            if all(isinstance(error, float) for error in errors):
                yield f"{name}_stderr", math.hypot(*errors) / len(errors)


class _Resident(LM):  # type: ignore[misc]  # untyped
    """A model in memory, as the harness asks models for likelihoods."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, spec: DataSpec) -> None:
        super().__init__()
        self.model, self.tokenizer, self.spec = model, tokenizer, spec

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each text after its context, and whether it is the likeliest."""
        rows = [self._row(*one.args) for one in requests]
        order = sorted(range(len(rows)), key=lambda at: sum(map(len, rows[at])), reverse=True)
        found: dict[int, tuple[float, bool]] = {}
        size = self.spec.batch_size
        for start in range(0, len(order), size):
            some = order[start : start + size]
            found |= zip(some, self._scores([rows[at] for at in some]), strict=True)
        return [found[at] for at in range(len(rows))]

    def _row(self, context: str, text: str) -> tuple[Ids, Ids]:
        """White space at the end of a context belongs to what follows, as in the harness."""
        kept = context.rstrip()
        one = Question(kept, (context[len(kept) :] + text,), 0)
        start, choices = question_ids(self.tokenizer, one, self.spec.max_length)
        return start, choices[0]

    @torch.no_grad()
    def _scores(self, rows: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        batch = continued(self.tokenizer, rows)
        kept, start = last_logits(self.model, batch["labels"])
        logits = self.model(**ready(self.model, batch), **kept).logits[:, :-1].float()
        labels = batch["labels"][:, start + 1 :].to(logits.device)
        scored = labels != IGNORED
        wanted = labels.clamp(min=0)[..., None]
        losses = logits.log_softmax(-1).gather(-1, wanted)[..., 0].double() * scored
        right = ((logits.argmax(-1) == labels) | ~scored).all(1)
        return list(zip(losses.sum(1).tolist(), right.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not offered: perplexities are measured on the study's own data."""
        raise MetricError("harness: tasks of running text are not offered")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Not offered: tasks with choices have acc and acc_norm."""
        raise MetricError("harness: tasks that have texts written are not offered")
