"""Texts a model writes, always taking the likeliest token, and what writing them costs.

Nothing but the model's own probabilities decides: what its generation config says of sampling,
penalties and lengths is left out, so that a text does not depend on the rows beside it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from trainables.bench.metrics import cost
from trainables.bench.models.cards import waiter
from trainables.core.types import IGNORED, Batch, Writing

TIMED = 20  # prompts that a response is timed on, evenly spread over the role's
_WARM_UP = 4  # tokens


@dataclass(frozen=True)
class Writer:
    """A model that answers batches of prompts.

    Attributes:
        longest: so many tokens at most.
    """

    model: Any
    tokenizer: Any
    writing: Writing
    longest: int

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        """A text for each row, up to the model's own end of an answer or a text to stop at."""
        written = self._generated(asked(self.model, batch), self.longest)
        texts = self.tokenizer.batch_decode(written.cpu(), skip_special_tokens=True)
        return [_cut(text, self.writing.stop) for text in texts]

    @torch.no_grad()
    def response_times(self, batches: Sequence[Batch]) -> list[float]:
        """Milliseconds that the answer to each of some prompts takes, alone in its batch, with the
        cache of keys and values, after a warm-up."""
        prompts = list(_single(self.model, batches))
        step = max(len(prompts) / TIMED, 1.0)
        chosen = [prompts[int(at * step)] for at in range(min(TIMED, len(prompts)))]
        finish = waiter(self.model)
        self._generated(chosen[0], _WARM_UP)
        times = []
        for prompt in chosen:
            finish()
            started = time.perf_counter()
            self._generated(prompt, self.longest)
            finish()
            times.append(1000 * (time.perf_counter() - started))
        return times

    @torch.no_grad()
    def peak_memory(self, batch: Batch) -> int:
        """Bytes of the model, and of what answering a batch adds to it at its highest."""
        prompts = asked(self.model, batch)
        self._generated(prompts, _WARM_UP)  # what is made once stays out of it
        made = cost.added_bytes(self.model, prompts, lambda: self._generated(prompts, self.longest))
        return cost.own_bytes(self.model) + made

    def _generated(self, prompts: Batch, longest: int) -> Tensor:
        """The tokens that are written, (rows, tokens), filled up on the right."""
        inputs = {name: prompts[name].to(self.model.device) for name in _INPUTS}
        apart = self.model.config.is_encoder_decoder
        start = 1 if apart else inputs["input_ids"].shape[1]
        stops = StoppingCriteriaList()
        if self.writing.stop:
            stops.append(_Stops(self.tokenizer, self.writing.stop, start))
        config = settings(self.model, self.tokenizer, self.writing, longest)
        ids: Tensor = self.model.generate(
            **inputs, generation_config=config, stopping_criteria=stops
        )
        return ids[:, start:]


_INPUTS = ("input_ids", "attention_mask")


def settings(model: Any, tokenizer: Any, writing: Writing, longest: int) -> GenerationConfig:
    """Greedy decoding, which ends where the model, its tokenizer or a turn of a chat does."""
    known, own = model.generation_config, model.config
    ends = {*_listed(known.eos_token_id), *_listed(getattr(own, "eos_token_id", None))}
    ends |= {*_listed(tokenizer.eos_token_id), *writing.ending[-1:]}
    fill = next(iter([*_listed(tokenizer.pad_token_id), *_listed(known.pad_token_id), *ends]), 0)
    return GenerationConfig(
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=fill,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        min_length=0,
        min_new_tokens=0 if known.min_new_tokens else None,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        length_penalty=1.0,
    )


def _listed(ids: int | Sequence[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def asked(model: Any, batch: Batch) -> Batch:
    """What to go on from; a decoder's rows without their targets, filled up on the left."""
    if model.config.is_encoder_decoder:
        return batch
    given = (batch["labels"] == IGNORED) & (batch["attention_mask"] == 1)
    most = int(given.sum(1).max())
    ids = torch.full((len(given), most), int(batch["input_ids"][0, 0]))
    mask = torch.zeros_like(ids)
    for row, (kept, source) in enumerate(zip(given, batch["input_ids"], strict=True)):
        length = int(kept.sum())
        ids[row, most - length :] = source[kept]
        mask[row, most - length :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _single(model: Any, batches: Sequence[Batch]) -> Iterator[Batch]:
    """Every row's prompt alone, without padding."""
    for batch in batches:
        prompts = asked(model, batch)
        for row, mask in enumerate(prompts["attention_mask"] == 1):
            yield {name: prompts[name][row, mask][None] for name in _INPUTS}


class _Stops(StoppingCriteria):  # type: ignore[misc]  # untyped
    """Ends a row once its text holds one of some texts."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        ids = input_ids[:, self.start :].cpu()
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        ended = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first place that ends it."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
