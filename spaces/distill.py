"""Distillation: which student, how soft the teacher speaks, how much it counts, how long it takes.

A student is a model of its own, `"cointegrated/rubert-tiny2"`, or cut from the study's model:
`"every:2"` keeps every second block of each stack, `"blocks:0,3,5"` these, `"influence:3"` the
three that change their input most, `"similarity:95"` what merging blocks alike leaves. A name in
`smaller` is a fresh model of the study's kind with other sizes.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from spaces.space import Choices, Point, Space, Trial
from trainables.bench.models.structure import fixed_blocks, stacks
from trainables.core.errors import PlanError
from trainables.core.spec import Count, ModelSpec, TextsSpec, TrainSpec
from trainables.distill import Distill
from trainables.omission.importance import BlockInfluence
from trainables.omission.method import Omission
from trainables.omission.searches import lowest
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.stage import Bench, Facts, Stage, drain

_CUTS = {
    "every": r"[2-9]|[1-9]\d+",
    "blocks": r"\d+(,\d+)*",
    "influence": r"[1-9]\d*",
    "similarity": r"\d+(\.\d+)?",
}
Share = Annotated[int, Field(ge=0, le=100)]
Rate = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _student(name: str) -> str:
    rule, _, value = name.partition(":")
    if rule in _CUTS and not re.fullmatch(_CUTS[rule], value):
        raise ValueError('such as "every:2", "blocks:0,3,5", "influence:3" or "similarity:95"')
    return name


class DistillSpace(Space):
    """Every pair of numbers is from the least to the most.

    Attributes:
        students: models, cuts of the study's own, or names in `smaller`.
        smaller: name -> fields of the config that a fresh student has otherwise.
        teacher: another model than the study's own.
        alphas: percent of the loss that is the teacher's.
        hidden, attention: weights of the losses on hidden states and attention.
        unlabelled: texts beside the rows, of which only the teacher says anything.
        training: all of the student's training but lr and epochs.
    """

    students: Choices[Annotated[str, AfterValidator(_student)]] = ("every:2",)
    smaller: dict[str, dict[str, Any]] = Field(default={})
    teacher: str = ""
    temperatures: tuple[Count, Count] = (1, 8)
    alphas: tuple[Share, Share] = (0, 100)
    lr: tuple[Rate, Rate] = (1e-5, 1e-3)
    epochs: tuple[Count, Count] = (1, 8)
    hidden: Choices[Weight] = (0.0,)
    attention: Choices[Weight] = (0.0,)
    unlabelled: TextsSpec | None = None
    training: TrainSpec = TrainSpec()

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for name in ("temperatures", "alphas", "lr", "epochs"):
            low, high = getattr(self, name)
            if low > high:
                raise PlanError(name, got=[low, high], allowed="the least, then the most")
        return self

    def survey(self, bench: Bench) -> dict[str, Any]:
        """Block influence, where a student is cut by it; students that cannot be are refused."""
        found: dict[str, Any] = super().survey(bench)
        if any(name.startswith("influence:") for name in self.students):
            found["influence"] = bench.stats(BlockInfluence)["influence"].tolist()
        sizes = tuple(len(stack.blocks) for stack in stacks(bench.model))
        fixed = tuple(sorted(fixed_blocks(bench.model)))
        facts = Facts(blocks=sum(sizes), stacks=sizes, fixed=fixed, survey=found)
        before = bench.subject
        for name in self.students:
            bench.subject = before.fork()
            try:
                for stage in cut(name, facts):
                    bench.subject = bench.subject.after(stage, drain(stage.on(bench)))
                self._distill(name, hidden=max(self.hidden), attention=max(self.attention)).check(
                    bench
                )
            finally:
                bench.subject = before
        return found

    def starts(self, facts: Facts) -> list[Point]:
        """Every student in the middle of the ranges, trained as long as it may be."""
        usual: Point = {
            "distill.temperature": sum(self.temperatures) // 2,
            "distill.alpha": sum(self.alphas) // 20 * 10,
            "distill.lr": (self.lr[0] * self.lr[1]) ** 0.5,
            "distill.epochs": self.epochs[1],
        }
        given = {name: value for name, value in usual.items() if self._asked(name)}
        if len(self.students) == 1:
            return [given] if given else []
        return [{"distill.student": name, **given} for name in self.students]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        name = _choose(trial, "distill.student", self.students)
        heat = trial.suggest_int("distill.temperature", *self.temperatures)
        share = trial.suggest_int("distill.alpha", *self.alphas)
        training = self.training.model_copy(
            update={
                "lr": trial.suggest_float("distill.lr", *self.lr, log=True),
                "epochs": trial.suggest_int("distill.epochs", *self.epochs),
            }
        )
        hidden = _choose(trial, "distill.hidden", self.hidden)
        attention = _choose(trial, "distill.attention", self.attention)
        return [
            *cut(name, facts),
            self._distill(
                name,
                temperature=float(heat),
                alpha=share / 100,
                hidden=hidden,
                attention=attention,
                recover=Recover(training),
            ),
        ]

    def _asked(self, parameter: str) -> bool:
        """Whether `stages` asks for it: all but choices of one."""
        return not parameter.endswith(("hidden", "attention", "student"))

    def _distill(self, name: str, **settings: Any) -> Distill:
        own = name.partition(":")[0] in _CUTS
        return Distill(
            student=None if own or name in self.smaller else ModelSpec(id=name),
            smaller=self.smaller.get(name, {}),
            teacher=ModelSpec(id=self.teacher) if self.teacher else None,
            unlabelled=self.unlabelled,
            **settings,
        )


def cut(name: str, facts: Facts) -> list[Stage]:
    """What makes the student of the study's model; nothing for a model of its own."""
    rule, _, value = name.partition(":")
    if rule == "similarity":
        return [Similarity(float(value))]
    if rule == "influence":
        gone = facts.blocks - int(value)
        if gone < 1:
            raise PlanError(f'student "{name}"', allowed=f"fewer blocks than {facts.blocks}")
        return [Omission(lowest(facts.survey["influence"], gone, fixed=facts.fixed))]
    if rule not in _CUTS:
        return []
    kept = set(map(int, value.split(","))) if rule == "blocks" else _every(int(value), facts)
    if max(kept) >= facts.blocks:
        raise PlanError(f'student "{name}"', allowed=f"blocks from 0 to {facts.blocks - 1}")
    kept |= set(facts.fixed)
    return [Omission(tuple(n for n in range(facts.blocks) if n not in kept))]


def _every(step: int, facts: Facts) -> set[int]:
    """Every so-many-th block of each stack, from its first on."""
    kept, first = set[int](), 0
    for size in facts.stacks:
        kept |= set(range(first, first + size, step))
        first += size
    return kept


def _choose(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, list(choices))
