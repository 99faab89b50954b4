"""What an item of each task is, and how items become the batches a model takes.

Every batch is right-padded to its own longest row and has an attention mask. `labels` are what
`model(**batch)` computes a loss from: -100 where nothing is to be predicted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import torch

from trainables.bench.data.adapter import TaskAdapter, folded
from trainables.bench.data.columns import Row, label_names
from trainables.bench.data.prompts import (
    ANSWERS,
    HIDDEN,
    PAIRS,
    QUESTIONS,
    Pair,
    Question,
    choose,
    classify,
)
from trainables.bench.data.tokenize import (
    Ids,
    continued,
    opening,
    pad,
    plain_ids,
    question_ids,
    stack,
)
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Role
from trainables.core.types import IGNORED, Batch


@dataclass(frozen=True)
class Window:
    """`max_length` tokens of running text, from one or more documents of one role."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of texts, and its class."""

    text: str
    second: str | None
    label: int


class LanguageModelling(TaskAdapter[Window]):
    """Documents one after another, cut into windows.

    A role with a split of its own reads it in order, as published perplexities do. What a role
    leaves of a document is dropped, so that no document serves two roles.
    """

    keeps_order = True

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("content", "document", "article", "sentence")
    }

    def key(self, row: Row) -> bytes:
        return folded(str(row[self.columns.name("text")]))

    def item(self, row: Row) -> Window:
        return Window(tuple(self._ids(row)))

    def _ids(self, row: Row) -> Ids:
        text = str(row[self.columns.name("text")]).strip()
        ids: Ids = self.processor(f"{text}\n\n", add_special_tokens=False)["input_ids"]
        return ids

    def usable(self, row: Row) -> bool:
        return super().usable(row) and bool(str(row[self.columns.name("text")]).strip())

    def items(self, rows: Iterator[Row], count: int) -> list[Window]:
        """Each window opens with what the tokenizer puts before a text (Gemma needs its BOS)."""
        start = opening(self.processor)
        length = self.spec.max_length - len(start)
        if length < 2:
            raise DataError(f"[data] max_length = {self.spec.max_length}: allowed is 2 and more")
        found: list[Window] = []
        left: Ids = []
        while len(found) < count:
            while len(left) < length and (row := next(rows, None)) is not None:
                left += self._ids(row)
            if len(left) < length:
                break
            found.append(Window((*start, *left[:length])))
            left = left[length:]
        return found

    def batch(self, items: Sequence[Window], role: Role) -> Batch:
        ids = torch.tensor([item.ids for item in items])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


class Classification(TaskAdapter[Labelled]):
    """A text, or two, and a label that is a class name or number."""

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "text": ("sentence", "content", "sentence1", "premise", "question1"),
        "text_b": ("sentence2", "hypothesis", "question2"),
        "label": ("labels", "class", "category"),
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        self.labels, self._number = label_names(tables, self.columns.name("label"))

    def key(self, row: Row) -> bytes:
        names = [self.columns.name(w) for w in ("text", "text_b") if w in self.columns]
        return folded("\n".join(str(row[name]) for name in names))

    def usable(self, row: Row) -> bool:
        return super().usable(row) and row[self.columns.name("label")] in self._number

    def item(self, row: Row) -> Labelled:
        seen = self.columns.view(row)
        second = str(seen["text_b"]) if "text_b" in self.columns else None
        return Labelled(str(seen["text"]), second, self._number[seen["label"]])

    def size(self, item: Labelled) -> int:
        return len(item.text) + len(item.second or "")

    def batch(self, items: Sequence[Labelled], role: Role) -> Batch:
        second = [item.second for item in items] if items[0].second is not None else None
        cut = {"truncation": True, "max_length": self.spec.max_length}
        encoded = self.processor([item.text for item in items], second, **cut)
        batch = pad(self.processor, encoded)
        return {**batch, "labels": torch.tensor([item.label for item in items])}


class MultipleChoice(TaskAdapter[Question]):
    """One row of tokens per choice: the prompt, then the choice, whose tokens are the labels.

    For search and held_out a batch holds every choice of its questions, in order. For calibration
    and train it holds the right choices only: what a model should find likely.
    """

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        **{name: () for template in QUESTIONS for name in sorted(template.columns)},
        "text": (),
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        there = [*self.columns.names, *(word for word in self.words if word in self.columns)]
        self._classes = {"text", "label"} <= set(there) and not any(
            template.columns <= set(there) for template in QUESTIONS
        )
        if self._classes:
            self.labels, self._number = label_names(tables, self.columns.name("label"))
        else:
            self._template = choose(QUESTIONS, there)
            self.needed = self.columns.names_of(sorted(self._template.columns))

    def key(self, row: Row) -> bytes:
        item = self.item(row)
        return folded("\n".join((item.prompt, *sorted(item.choices))))

    def usable(self, row: Row) -> bool:
        if self._classes:
            return row[self.columns.name("label")] in self._number
        answers = self.columns.names_of(ANSWERS & self._template.columns)
        return super().usable(row) and not any(row[name] in HIDDEN for name in answers)

    def item(self, row: Row) -> Question:
        seen = self.columns.view(row)
        if self._classes:
            return classify(str(seen["text"]), self.labels, self._number[seen["label"]])
        question: Question = self._template.read(seen)
        return question

    def size(self, item: Question) -> int:
        return len(item.prompt) + max(map(len, item.choices))

    def batch(self, items: Sequence[Question], role: Role) -> Batch:
        rows: list[tuple[Ids, Ids]] = []
        for item in items:
            start, choices = question_ids(self.processor, item, self.spec.max_length)
            scored = role in ("search", "held_out")
            rows += [(start, choice) for choice in (choices if scored else [choices[item.answer]])]
        return continued(self.processor, rows)


class Generation(TaskAdapter[Pair]):
    """A source and the text to write for it.

    An encoder-decoder reads the one and is trained on the other; a decoder reads both in a row.
    """

    words: ClassVar[dict[str, tuple[str, ...]]] = {
        **{name: () for template in PAIRS for name in sorted(template.columns)},
        "source": ("input", "document", "article", "dialogue"),
        "target": ("output", "summary", "highlights"),
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        there = [*self.columns.names, *(word for word in self.words if word in self.columns)]
        self._template = choose(PAIRS, there)
        self.needed = self.columns.names_of(sorted(self._template.columns))

    def key(self, row: Row) -> bytes:
        return folded(self.item(row).source)

    def item(self, row: Row) -> Pair:
        pair: Pair = self._template.read(self.columns.view(row))
        return pair

    def size(self, item: Pair) -> int:
        return len(item.source) + len(item.target)

    def batch(self, items: Sequence[Pair], role: Role) -> Batch:
        most = self.spec.max_length
        if not self.encoder_decoder:
            return continued(self.processor, [self._joined(item) for item in items])
        cut = {"truncation": True, "max_length": most}
        read = pad(self.processor, self.processor([item.source for item in items], **cut))
        written = self.processor(text_target=[item.target for item in items], **cut)
        return {**read, "labels": stack(written["input_ids"], IGNORED)}

    def _joined(self, item: Pair) -> tuple[Ids, Ids]:
        end = self.processor.eos_token_id
        target = plain_ids(self.processor, f" {item.target}") + ([] if end is None else [end])
        return self.prompt_ids(item, self.spec.max_length - len(target)), target

    def prompt_ids(self, item: Pair, most: int) -> Ids:
        """What a decoder is given to go on from."""
        start = opening(self.processor)
        ids = plain_ids(self.processor, item.source)
        return [*start, *ids[: max(most - len(start), 1)]]
