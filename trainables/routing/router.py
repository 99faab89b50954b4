"""The router of prompt-routed depth pruning: which omission set suits a prompt.

An encoder with one output per set is trained to predict the log-likelihood of the right answer
under each set; a prompt is answered with the set that promises most.

Source: "Prompt-based Depth Pruning of LLMs", Wee et al., ICML 2025 (arXiv 2502.04348).
"""

import json
import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
from trainables.bench.data.tokenize import filler
from trainables.bench.models.load import locate
from trainables.bench.training.loop import Recipe
from trainables.bench.training.loop import train as train_model
from trainables.bench.training.shared import trained_once
from trainables.core.cache import Cache, digest, write_durably
from trainables.core.errors import PlanError
from trainables.core.lineage import code, fingerprint
from trainables.core.spec import ModelSpec, TrainSpec
from trainables.core.types import Batch, Progress
from trainables.routing.examples import RouterExample, usable
from trainables.routing.spec import RouterSpec

CLIP = 1.0  # the norm to which all gradients together are cut, as published


@dataclass(frozen=True)
class Report:
    """How the router did on items it never saw."""

    rmse: float
    mae: float
    regret: float  # of its choices, in log-likelihood, against the best set for each item
    static_regret: float  # of always taking the set that is best on the training items
    items: int
    validated: int
    warmup: int  # steps over which the learning rate rose
    replaced: int  # likelihoods that were no finite numbers, and count as the worst
    dropped: int  # items left out, as none of their likelihoods was one


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
        """An untrained router on a pretrained encoder. PlanError if prompts are longer than it."""
        folder = locate(ModelSpec(id=spec.encoder))
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
        filled = _never_empty(dict(batch), filler(self.tokenizer))
        return {name: value.to(self.model.device) for name, value in filled.items()}

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


def _never_empty(batch: dict[str, Tensor], token: int) -> dict[str, Tensor]:
    """A text without tokens becomes a single one, as an encoder needs something to see."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if ids.shape[1] == 0:
        shape = (len(ids), 1)
        zeros = {name: torch.zeros(shape, dtype=torch.long) for name in batch}
        return zeros | {
            "input_ids": torch.full(shape, token),
            "attention_mask": zeros["attention_mask"] + 1,
        }
    nothing = mask.sum(1) == 0
    mask[nothing, 0] = 1
    return batch


def warmup_steps(spec: RouterSpec, total: int) -> int:
    """The steps of warm-up: as the settings say, but a tenth of a training that is shorter."""
    return spec.warmup if spec.warmup < total else total // 10


def recipe(spec: RouterSpec, router: Router, examples: Sequence[RouterExample]) -> Recipe:
    """How a router learns, as published: AdamW, the rate up over the warm-up and down linearly,
    gradients clipped, no weight decay on biases and norms."""
    size, wanted = spec.batch_size, targets(examples, spec.centre)
    steps = len(range(0, len(examples), size))
    total = spec.epochs * steps
    rising = warmup_steps(spec, total)

    def batches(seed: int) -> Iterator[Batch]:
        order = torch.randperm(len(examples)).tolist()
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = router.encode([examples[row].prompt for row in rows])
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
    spec: RouterSpec,
    examples: Sequence[RouterExample],
    folder: Path,
    cache: Cache,
    device: str = "cpu",
) -> Generator[Progress, None, Report]:
    """Train a router, or take over what was trained before, and save it with its report in
    `folder`; yields after every epoch. An interrupted training goes on from its last epoch.

    Raises:
        PlanError: too few examples, or the training diverged.
    """
    found = usable(examples)
    taught, held = split(found.examples, spec.validation, spec.seed)
    router = Router.fresh(spec, len(found.examples[0].likelihood))
    router.model.to(device)
    made, key = recipe(spec, router, taught), _identity(spec, found.examples, cache, device)
    yield from trained_once(
        cache, "routers", key, router.model, lambda path: train_model(router.model, made, path)
    )
    router.model.eval()
    report = Report(
        **judge(router, spec, taught, held),
        items=len(taught),
        validated=len(held),
        warmup=warmup_steps(spec, spec.epochs * made.steps),
        replaced=found.replaced,
        dropped=found.dropped,
    )
    router.save(folder)
    write_durably(folder / "report.json", json.dumps(asdict(report)))
    return report


def _identity(
    spec: RouterSpec, examples: Sequence[RouterExample], cache: Cache, device: str
) -> str:
    """All that decides the weights; the encoder by its content, wherever it lies."""
    settings = spec.model_dump(exclude={"encoder"})
    encoder = fingerprint(locate(ModelSpec(id=spec.encoder)), cache)
    rows = [asdict(example) for example in examples]
    return digest(settings, encoder, rows, code(), transformers.__version__, device)


def judge(
    router: Router,
    spec: RouterSpec,
    taught: Sequence[RouterExample],
    held: Sequence[RouterExample],
) -> dict[str, float]:
    """Measure a router on held items: its errors, and what its choices lose."""
    scores = router.scores([example.prompt for example in held])
    errors = scores - targets(held, spec.centre)
    likelihood = targets(held, centre=False)
    static = targets(taught, centre=False).mean(0).expand_as(likelihood)
    return {
        "rmse": float(errors.square().mean().sqrt()),
        "mae": float(errors.abs().mean()),
        "regret": float(regret(scores, likelihood).mean()),
        "static_regret": float(regret(static, likelihood).mean()),
    }
