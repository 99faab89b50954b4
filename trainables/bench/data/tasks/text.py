"""What an item of each task on text is, and how items become the batches a model takes.

Every batch is right-padded to its own longest row and has an attention mask. `labels` are what
`model(**batch)` computes a loss from: -100 where nothing is to be predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import datasets
import torch

from trainables.bench.data.columns import Labels, Row, RowError
from trainables.bench.data.prompts import (
    GIVEN,
    Question,
    Template,
    by_value,
    choose,
    classify,
    given,
)
from trainables.bench.data.published import FORMS, asked
from trainables.bench.data.tasks.adapter import TaskAdapter, folded
from trainables.bench.data.tokenize import (
    Ids,
    choice_rows,
    continued,
    pad,
)
from trainables.core.spec import DataSpec, Role
from trainables.core.types import Batch

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
_LOOKED_AT = 1000  # rows that tell how answers are given


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of texts, and its class."""

    text: str
    second: str | None
    label: int


class Classification(TaskAdapter[Labelled]):
    """A text, or two, and a label that is a class name or number."""

    required = ("text", "label")
    prose = ("text", "text_b")
    contexts = ("text", "text_b")
    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": (
            *("sentence", "content", "sentence1", "premise", "question1", "text1", "text_a"),
            *("review", "comment", "tweet", "message", "body", "description"),
        ),
        "text_b": ("sentence2", "hypothesis", "question2", "text2", "text_pair"),
        "label": ("labels", "class", "category"),
    }
    pairs: ClassVar[tuple[tuple[str, str], ...]] = (  # that are read together, in this order
        *(("question", other) for other in ("sentence", "passage", "context", "text")),
        *(("query", other) for other in ("passage", "document", "text")),
        ("claim", "evidence"),
        ("headline", "body"),
    )

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        paired = _paired(tables[0].column_names, self.pairs)
        if paired and not {"text", "text_b"} & set(spec.columns):
            first, second = paired
            columns = {**spec.columns, "text": first, "text_b": second}
            spec = spec.model_copy(update={"columns": columns})
        super().__init__(spec, processor, tables)
        self.columns.must_be_text(word for word in self.prose if word in self.columns)
        self.needed = self.columns.names_of(("text", "text_b"))
        self.classes = Labels(tables, self.columns.name("label"))

    def _texts(self, row: Row) -> list[str]:
        self.check(row)
        texts = [str(row[name]) for name in self.needed]
        if not all(text.strip() for text in texts):
            raise RowError("an empty text")
        return texts

    def key(self, row: Row) -> bytes:
        self._number(row)
        return folded("\n".join(self._texts(row)))

    def item(self, row: Row) -> Labelled:
        texts = [*self._texts(row), None]
        return Labelled(str(texts[0]), texts[1], self._number(row))

    def _number(self, row: Row) -> int:
        assert self.classes is not None
        return self.classes.number(row)

    def read(self) -> dict[str, str]:
        return super().read() | {"label": self.columns.name("label")}

    def size(self, item: Labelled) -> int:
        return len(item.text) + len(item.second or "")

    def batch(self, items: Sequence[Labelled], role: Role) -> Batch:
        second = [item.second for item in items] if items[0].second is not None else None
        cut = {"truncation": True, "max_length": self.spec.max_length}
        encoded = self.processor([item.text for item in items], second, **cut)
        batch = pad(self.processor, encoded)
        return {**batch, "labels": torch.tensor([item.label for item in items])}


def _paired(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first two columns that belong together, as the data set spells them."""
    by_lower = {name.lower(): name for name in names}
    if {"text", "text_b"} <= set(by_lower):
        return None
    for one, other in pairs:
        if one in by_lower and other in by_lower:
            return by_lower[one], by_lower[other]
    return None


class MultipleChoice(TaskAdapter[Question]):
    """One row of tokens per choice: the prompt, then the choice, whose tokens are the labels.

    For search and held_out a batch holds every choice of its questions, in order. For calibration
    and train it holds the right choices only: what a model should find likely.
    """

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        **{name: () for form in FORMS.values() for one in form for name in sorted(one.columns)},
        "text": (),
    }
    contexts = (
        *("passage", "context", "ctx", "goal", "sentence", "question", "question_stem", "prompt"),
        *("Problem", "text"),
    )
    prose = (
        *contexts,
        *("sol1", "sol2", "option1", "option2", "answerA", "answerB", "answerC", "options"),
        *("activity_label", "ctx_a", "ctx_b"),
    )

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        there = [*self.columns.names, *(word for word in self.words if word in self.columns)]
        form = FORMS[spec.prompts]
        known = any(one.columns <= set(there) for each in FORMS.values() for one in each)
        self._template: Template | None = None
        if {"text", "label"} <= set(there) and not known:
            self.classes = Labels(tables, self.columns.name("label"))
            read: frozenset[str] = frozenset(("text",))
        else:
            named = "" if spec.prompts == "rayduce" else f"{spec.prompts} "
            self._template = choose(form, there, named)
            read = self._template.columns
        self.columns.must_be_text(word for word in self.prose if word in read)
        self.columns.must_be_lists(read & {"choices", "endings"})
        self.needed = self.columns.names_of(sorted(read))
        if self._template is not None and self._template.name == GIVEN:
            rows = (self.columns.view(row) for row in islice(tables[0], _LOOKED_AT))
            ask = None if spec.prompts == "rayduce" else asked
            self._template = given(by_value(rows), ask)

    def key(self, row: Row) -> bytes:
        item = self.item(row)
        return folded("\n".join((item.prompt, *item.contexts, *sorted(item.choices))))

    def item(self, row: Row) -> Question:
        self.check(row)
        seen = self.columns.view(row)
        if self._template is None:
            assert self.classes is not None
            return classify(str(seen["text"]), self.labels, self.classes.number(row))
        question: Question = reading(self._template, seen)
        return question

    def size(self, item: Question) -> int:
        longest = max(map(len, item.choices))
        return longest + max(map(len, item.contexts or (item.prompt,)))

    def describe(self) -> dict[str, Any]:
        form = "class names" if self._template is None else self._template.name
        return super().describe() | {"prompts": f"{form}, as {self.spec.prompts} asks"}

    def batch(self, items: Sequence[Question], role: Role) -> Batch:
        rows: list[tuple[Ids, Ids]] = []
        for item in items:
            found = choice_rows(self.processor, item, self.spec.max_length)
            rows += found if role in ("search", "held_out") else [found[item.answer]]
        return continued(self.processor, rows)


def reading(template: Template, row: Row) -> Any:
    """The row by a template; RowError where it is not what the template expects."""
    try:
        return template.read(row)
    except _UNREADABLE as error:
        raise RowError(f"not in the form of {template.name} ({type(error).__name__})") from error
