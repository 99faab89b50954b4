"""Teacher and student side by side: which models they are, and whether one can teach the other.

Each reads the rows in its own way. Classes are matched by their names; token by token only models
of one vocabulary can be compared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainables.bench.data.columns import matched
from trainables.bench.models.structure import blocks, stacks
from trainables.core.cache import digest
from trainables.core.errors import PlanError, near
from trainables.core.fork import fork
from trainables.core.lineage import Lineage
from trainables.core.spec import ModelSpec
from trainables.core.types import Batch, PreTrainedModel
from trainables.stage import Bench, Reading, Subject

CLASSES = ("classification", "image-classification")
_READ = ("input_ids", "attention_mask", "pixel_values", "labels")


@dataclass(frozen=True)
class Pair:
    """Who teaches whom.

    Attributes:
        order: for each of the student's classes its number with the teacher; None for tokens.
        alike: whether both read the rows as the same tensors.
    """

    teacher: Subject
    student: Subject
    order: tuple[int, ...] | None
    alike: bool

    @property
    def layers(self) -> tuple[int, ...]:
        """For each block of the student the teacher's that it learns from: evenly spread, the
        last from the last."""
        mine, theirs = len(blocks(self.student.model)), len(blocks(self.teacher.model))
        return tuple(max((number + 1) * theirs // mine - 1, 0) for number in range(mine))


def check_pair(
    bench: Bench,
    student: ModelSpec | None,
    smaller: Mapping[str, Any],
    teacher: ModelSpec | None,
) -> Pair:
    """The two models, opened.

    Args:
        student: another model than the bench's own.
        smaller: fields in which a fresh student's config differs from that of the study's model.
        teacher: another one than the study's own model.

    Raises:
        UserError: one cannot teach the other.
    """
    teaches = bench.base.fork() if teacher is None else bench.open(teacher)
    learns = _student(bench, student, smaller)
    if learns.lineage == teaches.lineage:
        do = "name a student, or take blocks or weights out of the model first"
        raise PlanError("Distill: teacher and student are one model", do=do)
    name = bench.spec.model.id if teacher is None else teacher.id
    alike = _alike(teaches.reading, learns.reading)
    if bench.data.task not in CLASSES:
        _check_tokens(teaches, learns, alike=alike)
        return Pair(teaches, learns, None, alike)
    if not teaches.reading.head and not teaches.lineage.steps:
        raise PlanError(
            f"Distill: the teacher {name} has no head that was trained to tell classes apart",
            do="train it first: make it the study's model, with a table [model.train]",
        )
    return Pair(teaches, learns, _order(bench, teaches.reading, learns.reading), alike)


# -- the student -----------------------------------------------------------------------------------


def _student(bench: Bench, student: ModelSpec | None, smaller: Mapping[str, Any]) -> Subject:
    if student is None and not smaller:
        return bench.subject
    if bench.subject.lineage != bench.base.lineage:
        raise PlanError(
            "Distill: another student takes the place of what earlier stages made",
            do="let them follow it, or distil into what they made by naming no student",
        )
    return _fresh(bench, smaller) if student is None else bench.open(student)


def _fresh(bench: Bench, smaller: Mapping[str, Any]) -> Subject:
    """A model like the study's own, of other sizes and with random weights, that reads alike."""
    base = bench.base
    told = base.model.config.to_dict()
    if unknown := sorted(set(smaller) - set(told)):
        kind = base.model.config.model_type
        what = f"Distill.smaller: the config of {kind} has no such field{near(unknown[0], told)}"
        raise PlanError(what, got=", ".join(unknown))
    told.pop("layer_types", None)  # one per block: made anew
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        try:
            config = type(base.model.config).from_dict({**told, **smaller})
            made = type(base.model)(config)
        except (ValueError, TypeError, RuntimeError) as error:
            raise PlanError(f"Distill.smaller: {_line(error)}", got=dict(smaller)) from error
    model: PreTrainedModel = made.to(base.model.device, base.model.dtype).eval()
    identity = digest(type(model).__name__, json.loads(config.to_json_string(use_diff=False)))
    return Subject(model, Lineage(identity), base.reading, start=fork(model))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -- whether it can be taught ----------------------------------------------------------------------


def _alike(one: Reading, other: Reading) -> bool:
    if one is other:
        return True
    mine, theirs = one.data.batches("train"), other.data.batches("train")
    return len(mine) == len(theirs) and all(map(_same, mine, theirs))


def _same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same inputs; labels may be numbered otherwise."""
    names = [name for name in _READ[:-1] if name in one or name in other]
    return all(n in one and n in other and torch.equal(one[n], other[n]) for n in names)


def _order(bench: Bench, teacher: Reading, student: Reading) -> tuple[int, ...]:
    """For each of the student's classes its number with the teacher.

    Raises DataError where these are other classes, PlanError where names and data disagree.
    """
    order = matched(student.data.labels, teacher.data.labels, bench.spec.data.dataset)
    mine, theirs = (
        [label for batch in one.data.batches("train") for label in batch["labels"].tolist()]
        for one in (student, teacher)
    )
    for number, other in zip(mine, theirs, strict=True):
        if order[number] != other:
            raise PlanError(
                "Distill: teacher and student number the data's classes otherwise than they name "
                f"them: a row is {teacher.data.labels[other]} to the teacher and "
                f"{student.data.labels[number]} to the student",
                do="name the classes in the data set, or in one model's config alike",
            )
    return tuple(order)


def _check_tokens(teacher: Subject, student: Subject, *, alike: bool) -> None:
    """Raise PlanError unless both write in one vocabulary and read the rows alike."""
    one, other = teacher.reading.processor, student.reading.processor
    if one is other:
        return
    mine, theirs = one.get_vocab(), other.get_vocab()
    if mine != theirs:
        shared = sum(theirs.get(token) == number for token, number in mine.items())
        raise PlanError(
            "Distill: token by token a teacher and a student must have one vocabulary; the "
            f"teacher's has {len(mine)} tokens, the student's {len(theirs)}, and {shared} of them "
            "are the same under the same number",
            do="take a student with the teacher's tokenizer, or one cut from the teacher",
        )
    if not alike:
        raise PlanError(
            "Distill: teacher and student have one vocabulary, and yet read the rows otherwise",
            do="take a student with the teacher's tokenizer and of its kind (both decoders, or "
            "both with an encoder)",
        )


def check_states(pair: Pair, *, attention: bool) -> None:
    """Raise PlanError where hidden states or attention cannot be compared."""
    for one in (pair.teacher.model, pair.student.model):
        if (count := len(stacks(one))) != 1:
            raise PlanError(
                f"Distill: {type(one).__name__} has {count} stacks of blocks; hidden states and "
                "attention are compared in models of one",
                do="leave both at 0",
            )
    if attention and not pair.alike:
        raise PlanError(
            "Distill.attention: teacher and student read the rows in other tokens, so that their "
            "positions cannot be compared",
            do="leave it at 0; hidden states are compared by their mean over a text",
        )
