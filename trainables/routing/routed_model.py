"""A model that picks, for every prompt, which of its blocks to skip.

One set of weights, a router, and S omission sets. Prompts of a batch that need different sets run
in groups; each group's model is a fork that shares all weights.

    model = load("folder")  # from trainables.load
    model.generate(["The capital of France is"])
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trainables.bench.data.prompts import Question
from trainables.bench.data.tokenize import filler
from trainables.bench.models.structure import blocks
from trainables.bench.models.surgery import remove_blocks
from trainables.core.cache import write_durably
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator
from trainables.omission.searches import Omit
from trainables.routing.router import Router

Item = TypeVar("Item")
Result = TypeVar("Result")

NEW_TOKENS = 64  # written for a prompt where nobody says how many

README = """# {name}

A language model with prompt-routed depth: a router picks, for every prompt, which of {count} sets
of blocks is skipped. `model/` loads by itself as the dense model, with plain transformers. The
routed model loads with

    from trainables.load import load; model = load("{folder}")

and then `model.generate(["..."])`, `model.route(["..."])`, `model.log_likelihoods(questions)`.
"""


class RoutedModel:
    """A dense model, its omission sets, and the router that chooses among them."""

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
    def load(cls, folder: str | Path, *, dtype: str = "auto", device: str = "cpu") -> "RoutedModel":
        """A routed model from the folder that `save` wrote."""
        place = Path(folder)
        if not (place / "routed.json").exists():
            raise PlanError(f"{place}: no routed.json; give the folder of a routed model")
        sets = json.loads((place / "routed.json").read_text())["sets"]
        model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=dtype).to(device)
        router = Router.load(place / "router")
        router.model.to(device)
        tokenizer = AutoTokenizer.from_pretrained(place / "model")
        return cls(model, tokenizer, router, [tuple(omit) for omit in sets])

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

    def route(self, prompts: Sequence[str]) -> list[int]:
        """The set chosen for each prompt."""
        chosen: list[int] = self.router.scores(prompts).argmax(1).tolist()
        return chosen

    def pruned(self, index: int) -> PreTrainedModel:
        """The model without one set's blocks; shares all weights."""
        if index not in self._pruned:
            model = fork(self.model)
            remove_blocks(model, self.sets[index])
            self._pruned[index] = model
        return self._pruned[index]

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        config: GenerationConfig | None = None,
    ) -> list[str]:
        """What each prompt goes on with; greedy unless `config` says otherwise.

        Args:
            max_new_tokens: by default `config`'s, else 64.
            config: what it leaves open (the end and the filler) is the model's.
        """
        settings = self._settings(max_new_tokens, config)

        def write(index: int, group: list[str]) -> list[str]:
            return self._generate(self.pruned(index), group, settings)

        return self._grouped(prompts, prompts, write)

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
        prompts: Sequence[str],
        work: Callable[[int, list[Item]], Sequence[Result]],
    ) -> list[Result]:
        """Do the items of one set together; results in the items' order."""
        chosen = self.route(prompts) if prompts else []
        found: dict[int, Result] = {}
        for index in sorted(set(chosen)):
            numbers = [number for number, one in enumerate(chosen) if one == index]
            results = work(index, [items[number] for number in numbers])
            found |= dict(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(items))]

    @torch.no_grad()
    def _generate(
        self, model: PreTrainedModel, prompts: Sequence[str], settings: GenerationConfig
    ) -> list[str]:
        batch = self._padded(prompts)
        written = model.generate(**batch, generation_config=settings)
        length = batch["input_ids"].shape[1]
        texts: list[str] = self.tokenizer.batch_decode(
            written[:, length:], skip_special_tokens=True
        )
        return texts

    def _padded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Padded on the left, as generation goes on at the right."""
        rows = [self.tokenizer(prompt)["input_ids"] or self._start() for prompt in prompts]
        longest, fill = max(map(len, rows)), filler(self.tokenizer)
        ids = [[fill] * (longest - len(row)) + row for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        return {name: value.to(self.model.device) for name, value in tensors.items()}

    def _start(self) -> list[int]:
        """What stands for an empty prompt: a first token needs one before it."""
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return [begin if begin is not None else end or 0]


def measure(routed: RoutedModel, prompts: Sequence[str], new_tokens: int) -> dict[str, float]:
    """Median seconds per prompt of the dense and the routed model, the router's time included,
    and the bytes of weights: resident, and used by an average set."""
    settings = GenerationConfig(do_sample=False, min_new_tokens=new_tokens)
    settings.max_new_tokens = new_tokens
    settings.pad_token_id = filler(routed.tokenizer)
    rows = [_once(routed, prompt, settings) for prompt in [prompts[0], *prompts]]  # one to warm up
    seconds = {name: median(row[name] for row in rows[1:]) for name in rows[0]}
    pruned = [_bytes(routed.pruned(index)) for index in range(len(routed.sets))]
    return seconds | {
        "dense_bytes": _bytes(routed.model),
        "router_bytes": _bytes(routed.router.model),
        "pruned_bytes": sum(pruned) / len(pruned),
    }


def _once(routed: RoutedModel, prompt: str, settings: GenerationConfig) -> dict[str, float]:
    batch = routed._padded([prompt])
    found = {"router": _seconds(partial(routed.route, [prompt]))}
    pruned = routed.pruned(routed.route([prompt])[0])
    for name, model in (("dense", routed.model), ("pruned", pruned)):
        found[f"{name}_prefill"] = _seconds(partial(_prefill, model, batch))
        write = partial(model.generate, **batch, generation_config=settings)
        found[f"{name}_generation"] = _seconds(write)
    return found


@torch.no_grad()
def _prefill(model: PreTrainedModel, batch: dict[str, Tensor]) -> None:
    model(**batch)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _bytes(model: PreTrainedModel) -> float:
    return float(sum(p.numel() * p.element_size() for p in model.parameters()))
