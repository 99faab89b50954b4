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
class RouterExample:
    """One item: a prompt and the right answer's mean log-likelihood under every set."""

    item: str  # names it, over all tasks
    prompt: str
    likelihood: tuple[float, ...]


def read_examples(path: Path) -> list[RouterExample]:
    """The router's data set, from its Parquet file."""
    rows = pq.read_table(path, columns=["item", "prompt", "likelihood"]).to_pylist()
    return [RouterExample(row["item"], row["prompt"], tuple(row["likelihood"])) for row in rows]


@dataclass(frozen=True)
class Report:
    """How the router did on items it never saw."""

    rmse: float
    mae: float
    regret: float  # of its choices, in log-likelihood, against the best set for each item
    static_regret: float  # of always taking the set that is best on the training items
    items: int
    validated: int


def split(
    examples: Sequence[RouterExample], share: float, seed: int
) -> tuple[list[RouterExample], list[RouterExample]]:
    """(training, validation) examples; all rows of an item are on one side."""
    names = sorted({example.item for example in examples})
    random.Random(seed).shuffle(names)
    held = set(names[: max(1, round(len(names) * share))])
    if len(held) == len(names):
        raise PlanError(f"{len(names)} items are too few to train and validate a router")
    return (
        [example for example in examples if example.item not in held],
        [example for example in examples if example.item in held],
    )


def targets(examples: Sequence[RouterExample], centre: bool) -> Float[Tensor, "items sets"]:
    """What the router learns: likelihoods, or what each set adds to the prompt's mean."""
    raw = torch.tensor([example.likelihood for example in examples])
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
    spec: RouterSpec, examples: Sequence[RouterExample], folder: Path, device: str = "cpu"
) -> Iterator[Progress]:
    """Train a router and save it, with its report, in `folder`; yields after every epoch.

    After each epoch everything is saved, so that an interrupted training goes on from there and
    ends with the same weights.
    """
    if (folder / "report.json").exists():
        return
    taught, held = split(examples, spec.validation, spec.seed)
    router = Router.fresh(spec, len(examples[0].likelihood))
    router.model.to(device)
    run = _Training(spec, router, taught, folder / f"epoch-{_identity(spec, examples)}.pt")
    for epoch in range(run.restore(), spec.epochs):
        loss = run.epoch(epoch)
        run.save(epoch + 1)
        yield {"epoch": epoch + 1.0, "loss": loss}
    router.save(folder)
    report = judge(router, spec, taught, held)
    write_durably(folder / "report.json", json.dumps(asdict(report)))
    run.checkpoint.unlink(missing_ok=True)


def _identity(spec: RouterSpec, examples: Sequence[RouterExample]) -> str:
    return digest(spec.model_dump(), [asdict(example) for example in examples])


def judge(
    router: Router, spec: RouterSpec, taught: Sequence[RouterExample], held: Sequence[RouterExample]
) -> Report:
    """Measure a router on held items."""
    scores = router.scores([example.prompt for example in held])
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
        self, spec: RouterSpec, router: Router, examples: Sequence[RouterExample], checkpoint: Path
    ) -> None:
        self.spec, self.router, self.examples = spec, router, examples
        self.checkpoint = checkpoint
        self.wanted = targets(examples, spec.centre)
        self.steps = spec.epochs * len(range(0, len(examples), spec.batch_size))
        parameters = router.model.parameters()
        self.optimizer = AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
        self.schedule = LambdaLR(self.optimizer, lambda step: self._rate(step))

    def _rate(self, step: int) -> float:
        """Up over the warm-up, then down to nothing, linearly."""
        if step < self.spec.warmup:
            return step / self.spec.warmup
        return max(0.0, (self.steps - step) / max(1, self.steps - self.spec.warmup))

    def epoch(self, epoch: int) -> float:
        """Once through the examples, in an order of the epoch's own; returns the mean loss."""
        torch.manual_seed(self.spec.seed + 1000 * (epoch + 1))  # dropout, wherever training resumes
        order = torch.randperm(len(self.examples)).tolist()
        self.router.model.train()
        losses = [self._step(order[i : i + self.spec.batch_size]) for i in self._starts()]
        return sum(losses) / len(losses)

    def _starts(self) -> range:
        return range(0, len(self.examples), self.spec.batch_size)

    def _step(self, rows: list[int]) -> float:
        batch = self.router.encode([self.examples[row].prompt for row in rows])
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
