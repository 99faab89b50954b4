"""The router of prompt-routed depth pruning: which omission set suits a prompt.

An encoder with one output per set is trained to predict the log-likelihood of the right answer
under each set; a prompt is answered with the set that promises most.

Source: "Prompt-based Depth Pruning of LLMs", Wee et al., ICML 2025 (arXiv 2502.04348).
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trainables.bench.models.load import locate
from trainables.core.cache import digest, write_durably
from trainables.core.errors import PlanError
from trainables.core.spec import ModelSpec
from trainables.routing.spec import RouterSpec

Progress = dict[str, float]


@dataclass(frozen=True)
class Lesson:
    """One item: a prompt and the right answer's mean log-likelihood under every set."""

    item: str  # names it, over all tasks
    prompt: str
    likelihood: tuple[float, ...]


def read_lessons(path: Path) -> list[Lesson]:
    """The router's data set, from its Parquet file."""
    rows = pq.read_table(path, columns=["item", "prompt", "likelihood"]).to_pylist()
    return [Lesson(row["item"], row["prompt"], tuple(row["likelihood"])) for row in rows]


@dataclass(frozen=True)
class Report:
    """How the router did on items it never saw."""

    rmse: float
    mae: float
    regret: float  # of its choices, in log-likelihood, against the best set for each item
    static_regret: float  # of always taking the set that is best on the training items
    items: int
    validated: int


def split(lessons: Sequence[Lesson], share: float, seed: int) -> tuple[list[Lesson], list[Lesson]]:
    """(training, validation) lessons; all rows of an item are on one side."""
    names = sorted({lesson.item for lesson in lessons})
    random.Random(seed).shuffle(names)
    held = set(names[: max(1, round(len(names) * share))])
    if len(held) == len(names):
        raise PlanError(f"{len(names)} items are too few to train and validate a router")
    return (
        [lesson for lesson in lessons if lesson.item not in held],
        [lesson for lesson in lessons if lesson.item in held],
    )


def targets(lessons: Sequence[Lesson], centre: bool) -> Float[Tensor, "items sets"]:
    """What the router learns: likelihoods, or what each set adds to the prompt's mean."""
    raw = torch.tensor([lesson.likelihood for lesson in lessons])
    return raw - raw.mean(1, keepdim=True) if centre else raw


def regret(
    scores: Float[Tensor, "items sets"], likelihood: Float[Tensor, "items sets"]
) -> Float[Tensor, " items"]:
    """What choosing by `scores` loses against the best set of each item."""
    chosen = likelihood.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    return likelihood.max(1).values - chosen


@dataclass
class Router:
    """An encoder with one output per set, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int = 256

    @classmethod
    def fresh(cls, spec: RouterSpec, sets: int) -> "Router":
        """An untrained router on a pretrained encoder."""
        folder = locate(ModelSpec(id=spec.encoder))
        torch.manual_seed(spec.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=sets,
            problem_type="regression",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # an encoder may bring a head of another size
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        return cls(model, tokenizer, spec.max_length)

    @classmethod
    def load(cls, folder: Path) -> "Router":
        """A saved router."""
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        length = json.loads((folder / "router.json").read_text())["max_length"]
        return cls(model, AutoTokenizer.from_pretrained(folder), length)

    def save(self, folder: Path) -> None:
        """Weights, tokenizer, and what else `load` needs."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_durably(folder / "router.json", json.dumps({"max_length": self.max_length}))

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Tensors of a batch, on the router's device."""
        batch = self.tokenizer(
            list(prompts),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_length,
        )
        return {name: value.to(self.model.device) for name, value in batch.items()}

    @torch.no_grad()
    def scores(self, prompts: Sequence[str], batch_size: int = 64) -> Float[Tensor, "prompts sets"]:
        """What each set promises for each prompt."""
        self.model.eval()
        starts = range(0, len(prompts), batch_size)
        parts = [self.model(**self.encode(prompts[i : i + batch_size])).logits for i in starts]
        return torch.cat(parts).float().cpu()


def train(
    spec: RouterSpec, lessons: Sequence[Lesson], folder: Path, device: str = "cpu"
) -> Iterator[Progress]:
    """Train a router and save it, with its report, in `folder`; yields after every epoch.

    After each epoch everything is saved, so that an interrupted training goes on from there and
    ends with the same weights.
    """
    if (folder / "report.json").exists():
        return
    taught, held = split(lessons, spec.validation, spec.seed)
    router = Router.fresh(spec, len(lessons[0].likelihood))
    router.model.to(device)
    run = _Training(spec, router, taught, folder / f"epoch-{_identity(spec, lessons)}.pt")
    for epoch in range(run.restore(), spec.epochs):
        loss = run.epoch(epoch)
        run.save(epoch + 1)
        yield {"epoch": epoch + 1.0, "loss": loss}
    router.save(folder)
    report = judge(router, spec, taught, held)
    write_durably(folder / "report.json", json.dumps(asdict(report)))
    run.checkpoint.unlink(missing_ok=True)


def _identity(spec: RouterSpec, lessons: Sequence[Lesson]) -> str:
    return digest(spec.model_dump(), [asdict(lesson) for lesson in lessons])


def judge(
    router: Router, spec: RouterSpec, taught: Sequence[Lesson], held: Sequence[Lesson]
) -> Report:
    """Measure a router on held items."""
    scores = router.scores([lesson.prompt for lesson in held])
    errors = scores - targets(held, spec.centre)
    likelihood = targets(held, centre=False)
    static = targets(taught, centre=False).mean(0).expand_as(likelihood)
    return Report(
        rmse=float(errors.square().mean().sqrt()),
        mae=float(errors.abs().mean()),
        regret=float(regret(scores, likelihood).mean()),
        static_regret=float(regret(static, likelihood).mean()),
        items=len(taught),
        validated=len(held),
    )


class _Training:
    """The state of one training: weights, optimiser, schedule."""

    def __init__(
        self, spec: RouterSpec, router: Router, lessons: Sequence[Lesson], checkpoint: Path
    ) -> None:
        self.spec, self.router, self.lessons = spec, router, lessons
        self.checkpoint = checkpoint
        self.wanted = targets(lessons, spec.centre)
        self.steps = spec.epochs * len(range(0, len(lessons), spec.batch_size))
        parameters = router.model.parameters()
        self.optimizer = AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        self.schedule = LambdaLR(self.optimizer, lambda step: self._rate(step))

    def _rate(self, step: int) -> float:
        """Up over the warm-up, then down to nothing, linearly."""
        if step < self.spec.warmup:
            return step / self.spec.warmup
        return max(0.0, (self.steps - step) / max(1, self.steps - self.spec.warmup))

    def epoch(self, epoch: int) -> float:
        """Once through the lessons, in an order of the epoch's own; returns the mean loss."""
        torch.manual_seed(self.spec.seed + 1000 * (epoch + 1))  # dropout, wherever training resumes
        order = torch.randperm(len(self.lessons)).tolist()
        self.router.model.train()
        losses = [self._step(order[i : i + self.spec.batch_size]) for i in self._starts()]
        return sum(losses) / len(losses)

    def _starts(self) -> range:
        return range(0, len(self.lessons), self.spec.batch_size)

    def _step(self, rows: list[int]) -> float:
        batch = self.router.encode([self.lessons[row].prompt for row in rows])
        loss = self.router.model(
            **batch, labels=self.wanted[rows].to(self.router.model.device)
        ).loss
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def save(self, epoch: int) -> None:
        """Keep the state after an epoch."""
        state: dict[str, Any] = {"epoch": epoch, "model": self.router.model.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "rate": self.schedule.state_dict()}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def restore(self) -> int:
        """The epochs already done."""
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        self.router.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["rate"])
        return int(state["epoch"])
