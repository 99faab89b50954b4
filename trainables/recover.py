"""Retraining: the stage that brings back what compression cost.

What comes out depends on the model, the settings, the data and the seed alone, so it is trained
once and then shared by every trial that gets there. An interrupted training goes on from its last
epoch, to the same result. What compression made zero stays zero: weights that are when it begins,
and the biases of outputs whose weights are all zero.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from trainables.bench.data.tokenize import filler
from trainables.bench.metrics.catalogue import METRIC_FACTS
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.metrics.evaluate import measure_all
from trainables.bench.models.structure import blocks, linears, rows
from trainables.bench.training.adapters import adapted
from trainables.bench.training.examples import examples, joined, shuffled, steps
from trainables.bench.training.freeze import cut_neighbours, frozen
from trainables.bench.training.loop import JUDGED, Recipe, TrainingSteps, cast, mixed, train
from trainables.bench.training.shared import trained_once
from trainables.core.cache import digest
from trainables.core.errors import FieldError, PlanError
from trainables.core.fork import own
from trainables.core.lineage import source_version
from trainables.core.spec import TrainSpec
from trainables.core.types import IGNORED, Batch, PreTrainedModel, Progress
from trainables.stage import Bench, Stage, Summary, Trained

Freeze: TypeAlias = Literal["none", "part"]
USUAL = TrainSpec()


@dataclass(frozen=True)
class Learned:
    """What a training came to: everything that decided it, numbers and records of it."""

    how: Mapping[str, Any]
    counts: Mapping[str, int]
    details: Mapping[str, Any]


@dataclass(frozen=True, init=False)
class Recover(Stage):
    """Train the model on the data's `train` role.

    Attributes:
        training: epochs, lr, optimiser and so on.
        freeze: part: only blocks next to cuts learn, and what is outside the blocks.
        patience: epochs without a better loss on `search` before stopping; 0: never.
        watch: a metric to measure and report after every epoch, for a scheduler.
    """

    training: TrainSpec = USUAL
    freeze: Freeze = "none"
    patience: int = 0
    watch: str = ""

    def __init__(
        self,
        training: TrainSpec | Mapping[str, Any] = USUAL,
        *,
        freeze: Freeze = "none",
        patience: int = 0,
        watch: str = "",
        **changed: Any,
    ) -> None:
        """`changed` are fields of `training`: `Recover(epochs=1, lr=1e-3)`."""
        values = {"freeze": freeze, "patience": patience, "watch": watch}
        for name, value in {"training": self._spec(training, changed), **values}.items():
            object.__setattr__(self, name, value)
        self.require("freeze", freeze in get_args(Freeze), " or ".join(get_args(Freeze)))
        self.require("patience", type(patience) is int and patience >= 0, "from 0 on")

    def _spec(
        self, training: TrainSpec | Mapping[str, Any], changed: Mapping[str, Any]
    ) -> TrainSpec:
        given = training.model_dump() if isinstance(training, TrainSpec) else training
        try:
            return TrainSpec.model_validate({**given, **changed}, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]
            name, allowed = str(wrong["loc"][0]), wrong["msg"].removeprefix("Input should be ")
            if wrong["type"] == "extra_forbidden":
                allowed = ", ".join([*TrainSpec.model_fields, "freeze", "patience", "watch"])
            raise FieldError(self, name, allowed, got=wrong["input"]) from None

    def settings(self) -> dict[str, Any]:
        own = {"freeze": self.freeze, "patience": self.patience, "watch": self.watch}
        return {**self.training.model_dump(), **own}

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        """Train, or take over what was trained before."""
        done = yield from self.learn(bench)
        return Summary((Trained(done.how),), done.counts, done.details, label="retrained")

    def learn(
        self,
        bench: Bench,
        change: Callable[[Recipe], Recipe] = lambda recipe: recipe,
        rule: Mapping[str, Any] | None = None,
    ) -> Generator[Progress, None, "Learned"]:
        """Let the bench's model learn, for a stage that trains in a way of its own.

        Args:
            change: makes the stage's recipe of the usual one.
            rule: plain data that says all of what `change` does.
        """
        self.check(bench)
        trained = None
        if self.freeze == "part":
            start = bench.subject.start or bench.base.model
            trained = cut_neighbours(start, bench.model, bench.subject.history)
        how = {**self._identity(bench, trained), **(rule or {})}
        seed = int(digest(*self._origin(bench, bench.subject.lineage.key), "adapters"), 16) >> 1
        with adapted(bench.model, self.training, trained, seed):
            counts, still = yield from self._learned(bench, trained, how, change)
        return Learned(how, counts, {"frozen_blocks": still})

    def _learned(
        self,
        bench: Bench,
        trained: Sequence[int] | None,
        how: Mapping[str, Any],
        change: Callable[[Recipe], Recipe],
    ) -> Generator[Progress, None, tuple[dict[str, int], Sequence[int]]]:
        """Train, or take over; counts, and the blocks that did not learn."""
        with frozen(bench.model, trained) as still:
            counts = {
                "frozen": len(still),
                "trained_parameters": count_parameters(bench.model, learning=True),
            }

        def run(checkpoint: Path | None) -> TrainingSteps:
            return self._train(bench, trained, checkpoint, change)

        if bench.spec.naive:
            progress, ran = (yield from run(None)), True
        else:
            import transformers  # here: spaces name methods, and load no transformers

            made_by = (source_version(type(self)), transformers.__version__)
            key = digest(bench.subject.lineage.key, digest(how), *made_by)
            progress, ran = yield from trained_once(bench.cache, "recovered", key, bench.model, run)
        counts |= {"epochs": len(progress), "epochs_run": len(progress) if ran else 0}
        return counts, still

    def check(self, bench: Bench) -> None:
        """Raises FieldError where a field does not fit the bench's task."""
        if self.watch:
            require_metric(self, "watch", bench)
        if self.training.best and self.training.best not in bench.spec.metrics:
            require_metric(self, "best", bench, self.training.best)
            timed = METRIC_FACTS[self.training.best].timed
            if timed:
                raise FieldError(self, "best", "a metric that is no time", got=self.training.best)

    def _identity(self, bench: Bench, trained: Sequence[int] | None) -> dict[str, Any]:
        """Everything that decides the result, the model aside."""
        found = {**self.training.model_dump(), "patience": self.patience}
        found |= {"trained": trained, "seed": bench.seed}
        found["device"] = bench.device.type  # which rounds in its own way
        found["data"] = bench.data.fingerprint("train")
        if self.patience or self.training.best:
            found["search"] = bench.data.fingerprint("search")
        return found

    def _train(
        self,
        bench: Bench,
        trained: Sequence[int] | None,
        checkpoint: Path | None,
        change: Callable[[Recipe], Recipe],
    ) -> TrainingSteps:
        model, whole = bench.model, not self.training.lora_rank
        if whole:
            own(model)
        dtypes = cast(model, {}) if whole else {}
        with frozen(model, trained) as still, _one_class_each(model, bench):
            recipe = change(self._recipe(bench, still))
            progress = yield from train(model, recipe, checkpoint)
        model.eval()
        if whole:
            cast(model, dtypes)
        return progress

    def _recipe(self, bench: Bench, still: Sequence[int]) -> Recipe:
        size, lineage = self.training.batch_size, bench.subject.lineage.key
        apart = bool(bench.model.config.is_encoder_decoder)
        found = examples(bench.data.batches("train"), apart=apart)
        fill = filler(bench.processor)
        return Recipe(
            self.training,
            batches=lambda seed: shuffled(found, size, seed, fill),
            steps=steps(len(found), size),
            loss=self._loss,
            seed=lambda epoch: int(digest(*self._origin(bench, lineage), epoch), 16) >> 1,
            clip=self.training.clip,
            decays=lambda parameter: parameter.dim() > 1,
            judge=lambda: self._judge(bench),
            patience=self.patience,
            best=self._best(),
            still=still,
            zeros=() if self.training.lora_rank else zeros(bench.model),
        )

    def _origin(self, bench: Bench, lineage: str) -> tuple[object, ...]:
        """What decides the order of the examples, and dropout."""
        seed = self.training.seed
        return (bench.seed, lineage) if seed is None else (seed,)

    def _best(self) -> tuple[str, bool] | None:
        name = self.training.best
        if not name:
            return None
        facts = METRIC_FACTS.get(name)
        return name, facts is None or facts.direction == "max"

    def _judge(self, bench: Bench) -> Progress:
        found: Progress = {}
        if self.patience:
            found[JUDGED] = self._search_loss(bench)
        names = list(dict.fromkeys(filter(None, (self.watch, self.training.best))))
        return found | (measure_all(bench, names, "search") if names else {})

    def _loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        return loss_of(model, batch, self.training.label_smoothing)

    @torch.no_grad()
    def _search_loss(self, bench: Bench) -> float:
        """The loss of training, on `search`."""
        batches = _like_training(bench)
        sizes = [len(next(iter(batch.values()))) for batch in batches]
        with mixed(bench.model, self.training):
            losses = [float(self._loss(bench.model, batch)) for batch in batches]
        return sum(s * v for s, v in zip(sizes, losses, strict=True)) / sum(sizes)


def require_metric(stage: Stage, name: str, bench: Bench, got: str = "") -> None:
    """Raise FieldError unless the stage's field names a metric of the data's task.

    Args:
        got: what it names, where the stage has no attribute of that name.
    """
    task, own = bench.spec.data.task, bench.spec.metrics
    fitting = [metric for metric, facts in METRIC_FACTS.items() if task in facts.tasks]
    given = got or getattr(stage, name)
    if given not in (*fitting, *own):
        raise FieldError(stage, name, f"{', '.join([*fitting, *own])}, for {task}", got=given)


def zeros(model: PreTrainedModel) -> list[tuple[Tensor, Tensor]]:
    """(a parameter, where it is to stay zero): the weights inside the blocks that are zero, and the
    biases of silent outputs, those whose weights are all zero."""
    layers = linears(model).values()
    stacked = [p for block in blocks(model) for p in block.parameters() if p.dim() > 2]
    weights: dict[int, Tensor] = {id(p): p for p in (*(one.weight for one in layers), *stacked)}
    found = [(weight, weight == 0) for weight in weights.values()]
    for layer in layers:
        if layer.bias is not None:
            silent = (rows(layer) == 0).all(1)
            found.append((layer.bias, silent & (layer.bias == 0)))
    return [(parameter, mask) for parameter, mask in found if bool(mask.any())]


def loss_of(model: PreTrainedModel, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """The model's own loss on a batch, or with smoothing the cross-entropy of smoothed targets.

    Raises PlanError where the batch has no labels.
    """
    given = {name: value.to(model.device) for name, value in batch.items()}
    out = model(**given)
    loss: Tensor | None = out.loss
    if loss is None:
        raise PlanError("Recover: the data has no labels to train on")
    return _smoothed(model, out.logits, given["labels"], smoothing) if smoothing else loss


def _smoothed(model: PreTrainedModel, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    if labels.dim() > 1 and not model.config.is_encoder_decoder:  # the next token's
        logits, labels = logits[:, :-1], labels[:, 1:]
    flat = logits.float().flatten(0, -2), labels.flatten()
    return F.cross_entropy(*flat, ignore_index=IGNORED, label_smoothing=smoothing)


def _like_training(bench: Bench) -> list[Batch]:
    """The batches of `search` as training has them: of a question only the right answer."""
    batches = bench.data.batches("search")
    if bench.spec.data.task != "multiple-choice":
        return batches
    found, first, right = examples(batches), 0, []
    for item in bench.data.items("search"):
        right.append(found[first + item.answer])
        first += len(item.choices)
    size = bench.data.batch_size
    fill = {"labels": IGNORED, "input_ids": filler(bench.processor)}
    return [joined(right[start : start + size], fill) for start in range(0, len(right), size)]


@contextmanager
def _one_class_each(model: PreTrainedModel, bench: Bench) -> Iterator[None]:
    """Inside, a classifier learns one class per item, whatever problem it was made for."""
    before = getattr(model.config, "problem_type", None)
    if bench.spec.data.task in ("classification", "image-classification"):
        model.config.problem_type = "single_label_classification"
    try:
        yield
    finally:
        model.config.problem_type = before
