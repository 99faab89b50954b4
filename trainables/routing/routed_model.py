"""A model that picks, for every prompt, which of its blocks to skip.

One set of weights, a router, and S omission sets. Prompts of a batch that need different sets run
in groups; each group's model is a fork that shares all weights.

    model = load("folder")  # from trainables.load
    model.generate(["The capital of France is"])
"""

import copy
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextIteratorStreamer,
)

from trainables.bench.data.fits import positions
from trainables.bench.data.prompts import Question
from trainables.bench.data.tokenize import filler, first_token, stack
from trainables.bench.metrics.cost import own_bytes
from trainables.bench.models.cards import cards, spread, waiter
from trainables.bench.models.structure import blocks
from trainables.bench.models.surgery import remove_blocks
from trainables.core.cache import write_durably
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator
from trainables.omission.searches import Omit
from trainables.routing.router import Router

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
Item = TypeVar("Item")
Result = TypeVar("Result")

NEW_TOKENS = 64  # written for a prompt where nobody says how many

README = """# {name}

A language model with prompt-routed depth: a router picks, for every prompt, which of {count} sets
of blocks is skipped. `model/` loads by itself as the dense model, with plain transformers. The
routed model loads with

    from trainables.load import load; model = load("{folder}")

and then `model.generate(["..."])`, `model.stream("...")`, `model.route(["..."])`,
`model.log_likelihoods(questions)`; by hand: `rayduce route chat {folder}`.
"""


@dataclass(frozen=True)
class Reply:
    """What a prompt goes on with.

    Attributes:
        set: the one that was taken.
        tokens: that were written, the end's included.
        speed: tokens per second of its group, all prompts together; choosing the set not counted.
    """

    text: str
    set: int
    tokens: int
    speed: float


class RoutedModel:
    """A dense model, its omission sets, and the router that chooses among them.

    A prompt is a text, or a conversation: turns with `role` and `content`, for which the
    tokenizer's chat template is used, and whose last turn is what the router reads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        router: Router,
        sets: Sequence[Omit],
    ) -> None:
        self.model, self.tokenizer, self.router = model.eval(), tokenizer, router
        self.sets = [tuple(omit) for omit in sets]
        if router.model.config.num_labels != len(self.sets):
            raise PlanError(
                f"the router has {router.model.config.num_labels} outputs for {len(self.sets)} sets"
            )
        self._pruned: dict[int, PreTrainedModel] = {}

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: str = "auto", device_map: str | Sequence[str] = "cpu"
    ) -> "RoutedModel":
        """A routed model from the folder that `save` wrote.

        Args:
            dtype: of the model's weights; the router's stay as they are.
            device_map: a device; several, which share the model's blocks in their order; or "auto",
                all GPUs there are, else the CPU. The router goes where the model begins.
        """
        place = Path(folder)
        if not (place / "routed.json").exists():
            raise PlanError(f"{place}: no routed.json; give the folder of a routed model")
        sets = json.loads((place / "routed.json").read_text())["sets"]
        model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=dtype)
        model = spread(model, _devices(device_map))
        router = Router.load(place / "router")
        router.model.to(model.device)
        tokenizer = AutoTokenizer.from_pretrained(place / "model")
        return cls(model, tokenizer, router, [tuple(omit) for omit in sets])

    @classmethod
    def load(cls, folder: str | Path, *, dtype: str = "auto", device: str = "cpu") -> "RoutedModel":
        """The same, on one device."""
        return cls.from_pretrained(folder, dtype=dtype, device_map=device)

    def save(self, folder: str | Path) -> None:
        """Write everything into one folder, with a README; `routed.json` comes last."""
        place = Path(folder)
        self.model.save_pretrained(place / "model")
        self.tokenizer.save_pretrained(place / "model")
        self.router.save(place / "router")
        text = README.format(name=place.name, count=len(self.sets), folder=place)
        write_durably(place / "README.md", text)
        record = {"sets": self.sets, "blocks": len(blocks(self.model))}
        write_durably(place / "routed.json", json.dumps(record))

    @property
    def chats(self) -> bool:
        """Whether conversations can be prompts."""
        return getattr(self.tokenizer, "chat_template", None) is not None

    def route(self, prompts: Sequence[Prompt]) -> list[int]:
        """The set chosen for each prompt."""
        last = [one if isinstance(one, str) else one[-1]["content"] for one in prompts]
        return self.router.choose(last)

    def pruned(self, index: int) -> PreTrainedModel:
        """The model without one set's blocks; all its weights are the dense model's own."""
        if index not in self._pruned:
            model = fork(self.model)
            remove_blocks(model, self.sets[index])
            known = {parameter.data_ptr() for parameter in self.model.parameters()}
            assert all(parameter.data_ptr() in known for parameter in model.parameters())
            self._pruned[index] = model
        return self._pruned[index]

    def generate(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int | None = None,
        config: GenerationConfig | None = None,
    ) -> list[str]:
        """What each prompt goes on with, in the prompts' order; greedy unless `config` says
        otherwise.

        Args:
            max_new_tokens: by default `config`'s, else 64.
            config: what it leaves open (the end and the filler) is the model's. Its `max_length`
                counts each prompt's own tokens, whatever it is padded to.
        """
        return [reply.text for reply in self.answer(prompts, max_new_tokens, config)]

    def answer(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int | None = None,
        config: GenerationConfig | None = None,
    ) -> list[Reply]:
        """The same, with which set was taken and how fast it went."""
        settings = self._settings(max_new_tokens, config)

        def write(index: int, group: list[Prompt]) -> list[Reply]:
            return self._write(index, group, settings)

        return self._grouped(prompts, prompts, write)

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int | None = None,
        config: GenerationConfig | None = None,
    ) -> Generator[str, None, Reply]:
        """What one prompt goes on with, piece by piece as it is written; the whole at the end. Who
        stops reading earlier waits until it is written."""
        settings = self._settings(max_new_tokens, config)
        pieces = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        [index] = self.route([prompt])
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write, index, [prompt], settings, pieces)
            # also where nothing is written, or writing fails: who reads does not wait for ever
            writing.add_done_callback(lambda _: pieces.text_queue.put(pieces.stop_signal))
            yield from pieces
            [reply] = writing.result()
        return reply

    def _settings(self, most: int | None, config: GenerationConfig | None) -> GenerationConfig:
        settings = copy.deepcopy(config) if config else GenerationConfig(do_sample=False)
        if (settings.num_return_sequences or 1) != 1:
            got = settings.num_return_sequences
            raise PlanError("num_return_sequences", got=got, allowed="1: a text per prompt")
        if most is not None:
            settings.max_new_tokens = most
        elif settings.max_new_tokens is None and settings.max_length is None:
            settings.max_new_tokens = NEW_TOKENS
        if settings.pad_token_id is None:
            settings.pad_token_id = filler(self.tokenizer)
        if settings.eos_token_id is None:
            settings.eos_token_id = self.model.generation_config.eos_token_id
        return settings

    def log_likelihoods(
        self, questions: Sequence[Question], max_length: int = 512
    ) -> list[Float[Tensor, " choices"]]:
        """Each choice's mean log-likelihood per token, under the set chosen for its question."""

        def score(index: int, group: list[Question]) -> list[Tensor]:
            loss = losses.answers("tld", group, self.tokenizer, max_length=max_length)
            [means] = PrefixEvaluator(self.model, loss).means([self.sets[index]])
            return list(torch.split(means, [len(question.choices) for question in group]))

        return self._grouped(questions, [question.asked for question in questions], score)

    def _grouped(
        self,
        items: Sequence[Item],
        prompts: Sequence[Prompt],
        work: Callable[[int, list[Item]], Sequence[Result]],
    ) -> list[Result]:
        """Do the items of one set together; results in the items' order."""
        chosen = self.route(prompts)
        found: dict[int, Result] = {}
        for index in sorted(set(chosen)):
            numbers = [number for number, one in enumerate(chosen) if one == index]
            results = work(index, [items[number] for number in numbers])
            found |= dict(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(items))]

    @torch.no_grad()
    def _write(
        self,
        index: int,
        prompts: Sequence[Prompt],
        settings: GenerationConfig,
        streamer: TextIteratorStreamer | None = None,
    ) -> list[Reply]:
        """Write for a group, whose keys and values are kept in one cache."""
        began, rows = time.perf_counter(), [self._tokens(prompt) for prompt in prompts]
        most = [self._most(len(row), settings) for row in rows]
        if not max(most):
            return [Reply("", index, 0, 0.0) for _ in prompts]
        if (reads := positions(self.model)) is not None:
            rows = [row[-max(1, reads - max(most)) :] for row in rows]  # the last are the nearest
        batch, own = self._padded(rows), copy.deepcopy(settings)
        own.max_new_tokens, own.max_length = max(most), None
        written = self.pruned(index).generate(**batch, generation_config=own, streamer=streamer)
        new = written[:, batch["input_ids"].shape[1] :].tolist()
        kept = [self._ended(row[:limit], own) for row, limit in zip(new, most, strict=True)]
        speed = sum(map(len, kept)) / (time.perf_counter() - began)
        texts = self.tokenizer.batch_decode(kept, skip_special_tokens=True)
        return [Reply(t, index, len(row), speed) for t, row in zip(texts, kept, strict=True)]

    @staticmethod
    def _most(length: int, settings: GenerationConfig) -> int:
        """How many tokens may be written for a prompt of so many."""
        if settings.max_new_tokens is not None:
            return int(settings.max_new_tokens)
        return max(0, int(settings.max_length) - length)

    @staticmethod
    def _ended(row: list[int], settings: GenerationConfig) -> list[int]:
        """A row up to the model's end; what comes after fills it up."""
        ends = settings.eos_token_id
        known = ends if isinstance(ends, list) else [ends]
        return row[: next((at for at, one in enumerate(row, 1) if one in known), len(row))]

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"] or [first_token(self.tokenizer)]
        if not self.chats:
            raise PlanError("the tokenizer has no chat template", do="give prompts as texts")
        asked = self.tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, tokenize=False
        )
        found: list[int] = self.tokenizer(asked, add_special_tokens=False)["input_ids"]
        return found

    def _padded(self, rows: Sequence[list[int]]) -> dict[str, Tensor]:
        """Padded on the left, as generation goes on at the right."""
        ids = stack(rows, filler(self.tokenizer), left=True)
        mask = stack([[1] * len(row) for row in rows], 0, left=True)
        tensors = {"input_ids": ids, "attention_mask": mask}
        return {name: value.to(self.model.device) for name, value in tensors.items()}


def measure(routed: RoutedModel, prompts: Sequence[str], new_tokens: int) -> dict[str, float]:
    """Median seconds per prompt of the dense and the routed model, the router's time included,
    and the bytes of weights: resident, and used by an average set."""
    settings = GenerationConfig(
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        pad_token_id=filler(routed.tokenizer),
    )
    rows = [_once(routed, prompt, settings) for prompt in [prompts[0], *prompts]]  # one to warm up
    seconds = {name: median(row[name] for row in rows[1:]) for name in rows[0]}
    pruned = [own_bytes(routed.pruned(index)) for index in range(len(routed.sets))]
    return seconds | {
        "dense_bytes": own_bytes(routed.model),
        "router_bytes": own_bytes(routed.router.model),
        "pruned_bytes": sum(pruned) / len(pruned),
    }


def _once(routed: RoutedModel, prompt: str, settings: GenerationConfig) -> dict[str, float]:
    batch = routed._padded([routed._tokens(prompt)])
    finish = waiter(routed.model)
    found = {"router": _seconds(partial(routed.route, [prompt]), finish)}
    pruned = routed.pruned(routed.route([prompt])[0])
    for name, model in (("dense", routed.model), ("pruned", pruned)):
        found[f"{name}_prefill"] = _seconds(partial(_prefill, model, batch), finish)
        write = partial(model.generate, **batch, generation_config=settings)
        found[f"{name}_generation"] = _seconds(write, finish)
    return found


@torch.no_grad()
def _prefill(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model(**batch)


def _devices(device_map: str | Sequence[str]) -> list[torch.device]:
    if device_map == "auto":
        count = torch.cuda.device_count()
        return cards(torch.device("cuda" if count else "cpu"), max(count, 1))
    wanted = [device_map] if isinstance(device_map, str) else device_map
    return [torch.device(one) for one in wanted]


def _seconds(work: Callable[[], object], finish: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - started
