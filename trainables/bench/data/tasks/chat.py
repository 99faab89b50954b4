"""A tokenizer's chat template: how a prompt becomes a turn, and what ends the answer to it."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trainables.bench.data.tokenize import Ids, plain_ids
from trainables.core.errors import DataError

_MARK = "Rayduce"  # an answer to be found again in a rendered chat


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


@dataclass(frozen=True)
class Chat:
    """How one model's tokenizer writes a chat of one question and its answer."""

    tokenizer: Any
    system: str | None = None

    def asked(self, text: str) -> str:
        """The chat up to where the answer begins. DataError where the template refuses it."""
        return self._rendered(text, None)

    @cached_property
    def ending(self) -> Ids:
        """The tokens that end an answer: up to the first special one after it, such as
        `<end_of_turn>`; none where a template has nothing of the kind."""
        rest = self._rendered("?", _MARK).rpartition(_MARK)[2]
        ids = plain_ids(self.tokenizer, rest)
        marks = special_ids(self.tokenizer)
        first = next((at for at, number in enumerate(ids) if number in marks), None)
        return [] if first is None else ids[: first + 1]

    def _rendered(self, text: str, answer: str | None) -> str:
        turns = [{"role": "user", "content": text}]
        if self.system is not None:
            turns.insert(0, {"role": "system", "content": self.system})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        try:
            said: str = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=answer is None
            )
        except Exception as error:  # of a template's own code
            line = re.sub(r"\s+", " ", str(error)).strip()
            raise DataError(
                f"the tokenizer's chat template refuses: {line}",
                do="leave out [data] system, or set [data] chat = false",
            ) from error
        return said


def special_ids(tokenizer: Any) -> set[int]:
    """Every token that is a mark and no text."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    marks = {number for number, token in added.items() if getattr(token, "special", False)}
    return marks | set(tokenizer.all_special_ids)
