"""The router of prompt-routed depth pruning: which omission set suits a prompt.

An encoder with one output per set is trained to predict how well each set answers the prompt (as
published: the log-likelihood of the right answer); the set that promises most is taken, or the best
static one where that promises hardly less.

Source: "Prompt-based Depth Pruning of LLMs", Wee et al., ICML 2025 (arXiv 2502.04348).
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trainables.bench.data.fits import positions
from trainables.bench.data.tokenize import pad
from trainables.bench.models.load import load_processor, locate
from trainables.bench.training.loop import Recipe
from trainables.bench.training.loop import train as train_model
from trainables.bench.training.shared import trained_once
from trainables.core.cache import Cache, digest, write_durably
from trainables.core.errors import PlanError
from trainables.core.lineage import code, fingerprint
from trainables.core.spec import ModelSpec, TrainSpec
from trainables.core.types import Batch, Progress
from trainables.routing.answers import (
    NEVER,
    Answers,
    best_set,
    by_task,
    choose,
    fallback,
    taken,
)
from trainables.routing.spec import RouterSpec

CLIP = 1.0  # the norm to which all gradients together are cut, as published


@dataclass(frozen=True)
class Report:
    """How a router did on items it never saw, and when its choice is better than a fixed one.

    Attributes:
        rmse: with `mae`, of what it promises, in its target's unit.
        accuracy: of its choices, the mean over tasks.
        regret: of its choices, in the right answer's probability, against each item's best set.
        static: the set that is best for all prompts, by the training items' answers.
        margin: how much more than that one a set must promise to be taken.
        kept_accuracy: of its choices with that margin.
        warmup: steps over which the learning rate rose.
    """

    rmse: float
    mae: float
    accuracy: float
    regret: float
    static: int
    static_accuracy: float
    static_regret: float
    margin: float
    kept_accuracy: float
    items: int
    validated: int
    warmup: int


@dataclass
class Router:
    """An encoder with one output per set, and its tokenizer.

    Attributes:
        static: the set for prompts for which none promises more than it does by the margin.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int = 256
    static: int = 0
    margin: float = -NEVER  # whatever promises most is taken

    @classmethod
    def fresh(cls, spec: RouterSpec, sets: int) -> "Router":
        """An untrained router on a pretrained encoder. PlanError if prompts are longer than it,
        ModelError if it brings code of its own, or no tokenizer."""
        where = ModelSpec(id=spec.encoder)
        folder = locate(where)
        tokenizer: Any = load_processor(folder, where, "classification")
        torch.manual_seed(spec.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=sets,
            problem_type="regression",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # an encoder may bring a head of another size
        )
        most = positions(model)
        if most is not None and spec.max_length > most:
            allowed = f"up to the {most} positions of {spec.encoder}"
            raise PlanError("router.max_length", got=spec.max_length, allowed=allowed)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        return cls(model, tokenizer, spec.max_length)

    @classmethod
    def load(cls, folder: Path) -> "Router":
        """A saved router."""
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        kept = json.loads((folder / "router.json").read_text())
        return cls(model, AutoTokenizer.from_pretrained(folder), **kept)

    def save(self, folder: Path) -> None:
        """Weights, tokenizer, and what else `load` needs."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        kept = {name: getattr(self, name) for name in ("max_length", "static", "margin")}
        write_durably(folder / "router.json", json.dumps(kept))

    def choose(self, prompts: Sequence[str]) -> list[int]:
        """The set for each prompt."""
        promised = self.scores(prompts).double().numpy() if prompts else np.empty((0, 1))
        return choose(promised, self.static, self.margin).tolist() if prompts else []

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Tensors of a batch, on the router's device."""
        texts: Any = self.tokenizer(list(prompts), truncation=True, max_length=self.max_length)
        batch = pad(self.tokenizer, texts)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    @torch.no_grad()
    def scores(self, prompts: Sequence[str], batch_size: int = 64) -> Float[Tensor, "prompts sets"]:
        """What each set promises for each prompt."""
        self.model.eval()
        starts = range(0, len(prompts), batch_size)
        parts = [self.model(**self.encode(prompts[i : i + batch_size])).logits for i in starts]
        found = torch.cat(parts).float().cpu()
        if not bool(found.isfinite().all()):
            raise PlanError("the router's scores are no numbers", do="lower router.lr")
        return found


def warmup_steps(spec: RouterSpec, total: int) -> int:
    """The steps of warm-up: as the settings say, but a tenth of a training that is shorter."""
    return spec.warmup if spec.warmup < total else total // 10


def recipe(spec: RouterSpec, router: Router, answers: Answers) -> Recipe:
    """How a router learns, as published: AdamW, the rate up over the warm-up and down linearly,
    gradients clipped, no weight decay on biases and norms."""
    size = spec.batch_size
    wanted = torch.tensor(answers.targets(spec.target, centre=spec.centre), dtype=torch.float32)
    steps = len(range(0, len(answers), size))
    total = spec.epochs * steps
    rising = warmup_steps(spec, total)

    def batches(seed: int) -> Iterator[Batch]:
        order = torch.randperm(len(answers)).tolist()
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = router.encode(answers.prompts[rows].tolist())
            yield {**batch, "labels": wanted[rows].to(router.model.device)}

    def rate(step: int) -> float:
        if step < rising:
            return step / rising
        return max(0.0, (total - step) / max(1, total - rising))

    return Recipe(
        TrainSpec(epochs=spec.epochs, lr=spec.lr, batch_size=size, weight_decay=spec.weight_decay),
        batches,
        steps,
        loss=_loss,
        seed=lambda epoch: spec.seed + 1000 * epoch,
        rate=rate,
        clip=CLIP,
        decays=lambda parameter: parameter.dim() > 1,
    )


def _loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    wanted = batch.pop("labels")
    return nn.functional.mse_loss(model(**batch).logits, wanted)


def train(
    spec: RouterSpec, answers: Answers, folder: Path, cache: Cache, device: str = "cpu"
) -> Generator[Progress, None, Report]:
    """Train a router, or take over what was trained before, and save it in `folder`; yields after
    every epoch. An interrupted training goes on from its last epoch.

    Raises:
        PlanError: too few items, or the training diverged.
    """
    taught, held = answers.split(spec.validation, spec.seed)
    router = Router.fresh(spec, answers.sets)
    router.model.to(device)
    made, key = recipe(spec, router, taught), _identity(spec, taught, cache, device)
    yield from trained_once(
        cache, "routers", key, router.model, lambda path: train_model(router.model, made, path)
    )
    report = judge(router, spec, held, best_set(answers), len(taught))
    router.static, router.margin = report.static, report.margin
    router.save(folder)
    return report


def _identity(spec: RouterSpec, taught: Answers, cache: Cache, device: str) -> str:
    """All that decides the weights; the encoder by its content, wherever it lies."""
    settings = spec.model_dump(exclude={"encoder"})
    encoder = fingerprint(locate(ModelSpec(id=spec.encoder)), cache)
    rows = [taught.prompts.tolist(), taught.targets(spec.target, centre=spec.centre).tolist()]
    return digest(settings, encoder, rows, code(), transformers.__version__, device)


def judge(router: Router, spec: RouterSpec, held: Answers, static: int, items: int) -> Report:
    """Measure a router on held items: its errors, its choices, and by what margin of promise they
    are better than a static set.

    Args:
        items: how many it learned from.
    """
    promised = router.scores(held.prompts.tolist()).double().numpy()
    errors = promised - held.targets(spec.target, centre=spec.centre)
    margin = fallback(promised, held, static)
    ways = [choose(promised), choose(promised, static, margin), choose(promised, static, NEVER)]
    lost = held.probability.max(1, keepdims=True) - held.probability
    found = [[float(by_task(taken(one, way), held.tasks)) for way in ways]
             for one in (held.right, lost)]  # fmt: skip
    return Report(
        rmse=float(np.sqrt(np.square(errors).mean())),
        mae=float(np.abs(errors).mean()),
        accuracy=found[0][0],
        regret=found[1][0],
        static=static,
        static_accuracy=found[0][2],
        static_regret=found[1][2],
        margin=margin,
        kept_accuracy=found[0][1],
        items=items,
        validated=len(held),
        warmup=warmup_steps(spec, spec.epochs * len(range(0, items, spec.batch_size))),
    )
