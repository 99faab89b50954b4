"""Distillation as a stage: the student takes the teacher's place, and learns from it.

The student is another model with its own tokenizer, a fresh one of other sizes, or what earlier
stages left of the study's model. From then on it is the trial's subject: data are read, measured
and calibrated with what belongs to it, and an export carries its tokenizer.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trainables.core.cache import digest
from trainables.core.errors import FieldError, PlanError
from trainables.core.spec import ModelSpec, Spec, TextsSpec
from trainables.core.types import Progress
from trainables.distill.lesson import Lesson
from trainables.distill.pair import CLASSES, Pair, check_pair, check_states
from trainables.recover import Recover
from trainables.stage import Bench, Stage, Summary, Trained

Table = TypeVar("Table", bound=Spec)


@dataclass(frozen=True)
class Distilled(Trained):
    """The model learned from a teacher; `how` is everything that decides the result."""


@dataclass(frozen=True)
class Distill(Stage):
    """Train a student on the teacher's logits and the labels of the `train` role.

    The loss is alpha T^2 KL(teacher || student) + (1 - alpha) CE, plus the weighted losses on
    hidden states and attention: of every item's class, or token by token of what is predicted.

    Attributes:
        student: another model, by its id or its table; None: the trial's own, as earlier stages
            left it.
        smaller: fields in which a fresh student's config differs from that of the study's model.
        teacher: another model than the study's untouched one.
        temperature: T.
        alpha: the teacher's share; without labels it is 1.
        hidden: weight of the hidden states' loss, through projections that are learned along: at
            every position, or where the two read in other tokens, of the mean over a text.
        attention: weight of the attention's loss, for models that read in the same tokens.
        unlabelled: texts to learn from besides, of which only the teacher says anything.
        recover: how the student is trained; patience looks at the labels' loss on `search`.
    """

    student: ModelSpec | None = None
    smaller: Mapping[str, Any] = field(default_factory=dict)
    teacher: ModelSpec | None = None
    temperature: float = 2.0
    alpha: float = 0.5
    hidden: float = 0.0
    attention: float = 0.0
    unlabelled: TextsSpec | None = None
    recover: Recover = field(default_factory=Recover)

    def __post_init__(self) -> None:
        for name in ("student", "teacher"):
            object.__setattr__(self, name, self._read(ModelSpec, name, "id"))
            self.require(name, not self._trains(name), "a model as it is, without a table train")
        object.__setattr__(self, "unlabelled", self._read(TextsSpec, "unlabelled", "dataset"))
        self.require("temperature", 0 < self.temperature < float("inf"), "above 0")
        self.require("alpha", 0 <= self.alpha <= 1, "0 to 1")
        for name in ("hidden", "attention"):
            self.require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        alone = self.student is None or not self.smaller
        self.require("smaller", alone, "nothing beside a student")
        whole = not self.replaces or self.recover.freeze == "none"
        self.require("recover", whole, 'freeze = "none": another student has no cuts')

    def _trains(self, name: str) -> bool:
        model: ModelSpec | None = getattr(self, name)
        return model is not None and model.train is not None

    def _read(self, kind: type[Table], name: str, key: str) -> Table | None:
        """A field given as its table, as plain data, or by its most important part alone."""
        given: Any = getattr(self, name)
        if given is None or isinstance(given, kind):
            return given
        try:
            return kind.model_validate({key: given} if isinstance(given, str) else given)
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            raise FieldError(self, name, f"{where}: {wrong['msg']}") from None

    def settings(self) -> dict[str, Any]:
        """In one level, models by their ids."""
        own = {
            "student": _named(self.student.id) if self.student else "",
            "smaller": ", ".join(f"{name}={value}" for name, value in self.smaller.items()),
            "teacher": _named(self.teacher.id) if self.teacher else "",
            "unlabelled": _named(self.unlabelled.dataset) if self.unlabelled else "",
        }
        plain = ("temperature", "alpha", "hidden", "attention")
        return own | {name: getattr(self, name) for name in plain} | self.recover.settings()

    @property
    def replaces(self) -> bool:
        """A student of its own has nothing of what was done to the study's model."""
        return self.student is not None or bool(self.smaller)

    def check(self, bench: Bench) -> Pair:
        """The teacher and the student. Raises UserError where this cannot be done on the bench."""
        pair = check_pair(bench, self.student, self.smaller, self.teacher)
        if self.hidden or self.attention:
            check_states(pair, attention=self.attention > 0)
        if self.unlabelled:
            self._check_texts(bench)
        return pair

    @staticmethod
    def _check_texts(bench: Bench) -> None:
        task = bench.spec.data.task
        if task != "classification":
            do = "leave it out" if task in CLASSES else "give more rows to train on"
            raise PlanError("Distill.unlabelled: texts are for classification", do=do)
        if bench.data.items("train")[0].second is not None:
            do = "leave it out, or name one column in [data.columns]"
            raise PlanError("Distill.unlabelled: single texts, and the data has pairs", do=do)

    def on(self, bench: Bench) -> Generator[Progress, None, Summary]:
        pair = self.check(bench)
        lesson = Lesson(bench, pair, self._weights(), self.unlabelled)
        bench.subject = pair.student
        with lesson.telling(bench.model):
            done = yield from self.recover.learn(bench, lesson.recipe, self._rule(pair, lesson))
        counts = {**done.counts, "unlabelled": len(lesson.texts)}
        details = {**done.details, "teacher": self._teacher(bench), "models": self._models(bench)}
        if self.hidden or self.attention:
            details["layers"] = list(pair.layers)
        label = f"distilled T{self.temperature:g} a{self.alpha:g}"
        return Summary((Distilled(done.how),), counts, details, label=label)

    def _weights(self) -> dict[str, float]:
        names = ("temperature", "alpha", "hidden", "attention")
        return {name: float(getattr(self, name)) for name in names}

    def _rule(self, pair: Pair, lesson: Lesson) -> dict[str, Any]:
        """What decides the result besides the training: plain data."""
        asked = pair.teacher.reading.data.fingerprint("train")
        return self._weights() | {
            "teacher": pair.teacher.lineage.key,
            "teacher_reads": asked,
            "order": pair.order,
            "layers": pair.layers if self.hidden or self.attention else None,
            "unlabelled": digest(lesson.texts),
        }

    def _teacher(self, bench: Bench) -> str:
        return self.teacher.id if self.teacher else bench.spec.model.id

    def _models(self, bench: Bench) -> list[str]:
        """The models that had a part in it."""
        named = [one.id for one in (self.teacher, self.student) if one is not None]
        return list(dict.fromkeys([bench.spec.model.id, *named]))


def _named(what: str) -> str:
    """A hub id or an asset as it is, a local path by its last part."""
    return Path(what).name if what.startswith("/") else what
