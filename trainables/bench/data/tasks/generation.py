"""Texts to be written: what a model is asked, what it should answer, and what ends an answer."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import datasets

from trainables.bench.data.columns import Row, Words
from trainables.bench.data.pairs import CHATS, OPTIONAL, PAIRS, Pair, Prompt, target_of
from trainables.bench.data.prompts import Template, choose
from trainables.bench.data.tasks.adapter import TaskAdapter, folded
from trainables.bench.data.tasks.chat import Chat, has_chat
from trainables.bench.data.tasks.text import reading
from trainables.bench.data.tokenize import Ids, continued, following, opening, pad, plain_ids, stack
from trainables.core.errors import DataError
from trainables.core.spec import DataSpec, Role, template_fields
from trainables.core.types import IGNORED, Batch, Writing

_ANSWERS = ("answer", "answers")  # other names of the target, where a prompt says what is asked


class Generation(TaskAdapter[Pair]):
    """A source and the text to write for it.

    An encoder-decoder reads the one and is trained on the other; a decoder reads both in a row, as
    turns of a chat where its tokenizer has a template for them.
    """

    nested = True
    prose = ("source", "context", "question", "instruction")
    contexts: tuple[str, ...] = ("context", "source", "question", "instruction")
    words: ClassVar[dict[str, tuple[str, ...]]] = {
        **{name: () for one in PAIRS for name in sorted(one.columns)},
        "source": ("input", "document", "article", "dialogue", "prompt"),
        "target": ("output", "summary", "highlights", "response", "completion"),
        "input": (),
        "output": ("response",),
    }

    def __init__(self, spec: DataSpec, processor: Any, tables: Sequence[datasets.Dataset]) -> None:
        super().__init__(spec, processor, tables)
        self._prompt: Prompt | None = None
        self._template: Template | None = None
        if spec.prompt is not None:
            self._prompt = Prompt(spec.prompt, self.columns, spec.dataset)
            self.columns.take(**{name: name for name in self._prompt.columns.values()})
            self.contexts = tuple(self._prompt.columns.values())
            self.needed = [*dict.fromkeys(self._prompt.needed), self.columns.name("target")]
            self._read = [*self._prompt.columns.values(), self.columns.name("target")]
            return
        there = [*self.columns.names, *(word for word in self.words if word in self.columns)]
        self._template = choose(PAIRS, there)
        read = self._template.columns
        self.columns.must_be_text(word for word in self.prose if word in read)
        self.needed = self.columns.names_of(sorted(read))
        more = self.columns.names_of(OPTIONAL.get(self._template.name, ()))
        self._read = [*self.needed, *more]

    def vocabulary(self, spec: DataSpec) -> Words:
        if spec.prompt is None:
            return self.words
        fields = (name.removesuffix("?") for name in template_fields(spec.prompt))
        target = (*self.words["target"], *_ANSWERS)
        return {**self.words, **{name: () for name in fields}, "target": target}

    @cached_property
    def chat(self) -> Chat | None:
        """How a decoder's prompts become turns; None where they are read as they are."""
        wanted = self.spec.chat
        if wanted and (self.encoder_decoder or not has_chat(self.processor)):
            what = "an encoder-decoder reads" if self.encoder_decoder else "the tokenizer has"
            raise DataError(f"[data] chat = true: {what} no chat template", do="leave it out")
        if wanted is False or self.encoder_decoder or not has_chat(self.processor):
            if self.spec.system is not None:
                raise DataError("[data] system: there is no chat that it could open")
            return None
        return Chat(self.processor, self.spec.system)

    @cached_property
    def ending(self) -> Ids:
        """The tokens after an answer that a decoder learns, and at which it stops."""
        if self.chat is not None and self.chat.ending:
            return self.chat.ending
        end = self.processor.eos_token_id
        return [] if end is None else [end]

    @property
    def writing(self) -> Writing:
        return Writing(self.spec.stop, self.spec.max_new_tokens, tuple(self.ending))

    def key(self, row: Row) -> bytes:
        return folded(self.item(row).source)

    def item(self, row: Row) -> Pair:
        self.check(row)
        seen = self.columns.view(row)
        if self._prompt is not None:
            parts = self._prompt.parts(row)
            return Pair("".join(parts), target_of(seen["target"]), parts)
        assert self._template is not None
        form = self._template
        if self.chat is not None and form.name in CHATS:
            form = Template(form.name, form.columns, CHATS[form.name])
        pair: Pair = reading(form, seen)
        return pair

    def size(self, item: Pair) -> int:
        return len(item.source) + len(item.target)

    def read(self) -> dict[str, str]:
        return {word: name for word, name in self.columns.items() if name in self._read}

    def describe(self) -> dict[str, Any]:
        form = self._template.name if self._template else self.spec.prompt
        asked = "as they are" if self.chat is None else "in the tokenizer's chat template"
        if self.chat is not None and self.spec.system is not None:
            asked += f", after the system's turn: {self.spec.system}"
        found = super().describe() | {"prompts": form, "asked": asked}
        return found | ({"stop": list(self.spec.stop)} if self.spec.stop else {})

    # -- batches -----------------------------------------------------------------------------

    def batch(self, items: Sequence[Pair], role: Role) -> Batch:
        most = self.spec.max_length
        if not self.encoder_decoder:
            return continued(self.processor, [self._joined(item) for item in items])
        cut = {"truncation": True, "max_length": most}
        sources = [self._fitted(item, most) for item in items]
        read = pad(self.processor, self.processor(sources, **cut))
        written = self.processor(text_target=[item.target for item in items], **cut)
        return {**read, "labels": stack(written["input_ids"], IGNORED)}

    def _fitted(self, item: Pair, most: int) -> str:
        """An encoder's source; of a prompt with several parts the longest gives way."""
        while len(item.parts) > 2 and not item.shortest:
            count = len(self.processor(item.source)["input_ids"])
            if count <= most:
                break
            item = item.shorter(_left(count, most))
        return item.source

    def _joined(self, item: Pair) -> tuple[Ids, Ids]:
        """Where both are too long together, the target keeps what the source leaves, or half."""
        most = self.spec.max_length
        target = [*self._target_ids(item), *self.ending]
        source = len(self.prompt_ids(item, most))
        target = target[: max(most - source, most // 2, 1)]
        return self.prompt_ids(item, most - len(target)), target

    def _target_ids(self, item: Pair) -> Ids:
        """The answer's own tokens, after a space unless the prompt ends where a text begins."""
        asked = self._asked(item)
        begun = bool(item.parts) and asked[-1:].isspace()
        gap = "" if self.chat is not None or begun else " "
        return following(self.processor, asked, plain_ids(self.processor, asked), gap + item.target)

    def _asked(self, item: Pair) -> str:
        return item.source if self.chat is None else self.chat.asked(item.source)

    def prompt_ids(self, item: Pair, most: int) -> Ids:
        """What a decoder is given to go on from, at most so many tokens.

        A source as it is loses its end. Of a prompt or a turn of a chat the row's longest text
        does, so that what leads to the answer stays.
        """
        start = opening(self.processor) if self.chat is None else []
        room = max(most - len(start), 1)
        if self.chat is None and not item.parts:
            return [*start, *plain_ids(self.processor, item.source)[:room]]
        while len(ids := plain_ids(self.processor, self._asked(item))) > room and not item.shortest:
            item = item.shorter(_left(len(ids), room))
        return [*start, *ids[-room:]]


def _left(count: int, room: int) -> float:
    """A careful guess of how much of a text may stay, so that few tries are needed."""
    return max(0.0, 1 - (count - room) / count)
