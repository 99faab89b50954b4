"""The training loop behind `recover`: plain torch, deterministic, goes on where it stopped."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from trainables.bench.metrics.evaluate import measure_all
from trainables.bench.models.structure import linears
from trainables.bench.training.examples import examples, shuffled, steps
from trainables.bench.training.freeze import train_mode
from trainables.core.cache import digest
from trainables.core.errors import UserError
from trainables.core.fork import put
from trainables.core.types import Batch, PreTrainedModel, Progress
from trainables.stage import Bench

_OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, lr, weight_decay: torch.optim.SGD(
        parameters, lr, momentum=0.9, weight_decay=weight_decay
    ),
}
_DECAY: dict[str, Callable[[float], float]] = {  # share of training done -> share of lr
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


class Settings(Protocol):
    """How to train; the fields are those of the Recover stage."""

    @property
    def epochs(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def optimiser(self) -> str: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def patience(self) -> int: ...
    @property
    def watch(self) -> str: ...


class Run:
    """One training in progress: everything that changes from epoch to epoch."""

    def __init__(self, settings: Settings, bench: Bench, still: Sequence[int]) -> None:
        self.settings, self.bench, self.still = settings, bench, still
        self.model = bench.model
        self.rows = examples(
            bench.data.batches("train"), apart=bool(bench.model.config.is_encoder_decoder)
        )
        self.zeros = _zeros(self.model)
        learnable = [p for p in self.model.parameters() if p.requires_grad]
        build = _OPTIMISERS[settings.optimiser]
        self.optimiser = build(learnable, lr=settings.lr, weight_decay=settings.weight_decay)
        total = settings.epochs * steps(len(self.rows), settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: _share(step, total, settings)
        )
        self.progress: list[Progress] = []
        self.best: dict[str, Tensor] | None = None

    def over(self) -> bool:
        """Whether all epochs ran, or the last ones brought nothing."""
        done, patience = len(self.progress), self.settings.patience
        if done >= self.settings.epochs or not patience or not done:
            return done >= self.settings.epochs
        losses = [step["search_loss"] for step in self.progress]
        return done - 1 - losses.index(min(losses)) >= patience

    def epoch(self) -> Progress:
        """Train once through the data; says how it went."""
        number = len(self.progress) + 1
        seed = int(digest(self.bench.seed, self.bench.subject.lineage.key, number), 16) >> 1
        filler = getattr(self.bench.processor, "pad_token_id", None) or 0
        total, count = 0.0, 0
        with _seeded(seed, self.bench.device):
            train_mode(self.model, self.still)
            for batch in shuffled(self.rows, self.settings.batch_size, seed, filler):
                size = len(next(iter(batch.values())))
                total, count = total + self._step(batch) * size, count + size
            self.model.eval()
        step = {"epoch": float(number), "train_loss": total / count}
        if self.settings.patience:
            step["search_loss"] = self._search_loss()
        if self.settings.watch:
            step |= measure_all(self.bench, [self.settings.watch], "search")
        self.progress.append(step)
        self._keep_best()
        return step

    def _step(self, batch: Batch) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(f"the training loss is {value}: lower Recover.lr")
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.schedule.step()
        for parameter, mask in self.zeros:
            parameter.data.masked_fill_(mask, 0)
        return value

    def _loss(self, batch: Batch) -> Tensor:
        device = self.bench.device
        mixed = self.settings.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            out = self.model(**{name: value.to(device) for name, value in batch.items()})
        loss: Tensor | None = out.loss
        if loss is None:
            raise UserError(f"Recover: {self.bench.spec.data.task} data has no labels to train on")
        return loss

    @torch.no_grad()
    def _search_loss(self) -> float:
        batches = self.bench.data.batches("search")
        sizes = [len(next(iter(batch.values()))) for batch in batches]
        losses = [float(self._loss(batch)) for batch in batches]
        return sum(s * v for s, v in zip(sizes, losses, strict=True)) / sum(sizes)

    def _keep_best(self) -> None:
        if self.settings.patience:
            losses = [step["search_loss"] for step in self.progress]
            if losses[-1] == min(losses) and losses.count(losses[-1]) == 1:
                self.best = {n: v.clone() for n, v in tensors_of(self.model).items()}

    def finish(self) -> None:
        """Leave the best epoch's weights in the model, where epochs were compared."""
        if self.best is not None:
            give(self.model, self.best)

    def save(self, path: Path) -> None:
        """Everything needed to go on, written whole or not at all."""
        state = {
            "model": tensors_of(self.model),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": self.progress,
            "best": self.best,
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, map_location=self.bench.device, weights_only=True)
        with torch.no_grad():
            mine = tensors_of(self.model)
            for name, value in state["model"].items():
                mine[name].copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress, self.best = state["progress"], state["best"]


def tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights and buffers that are saved, tied ones once."""
    saved = model.state_dict()
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return {name: saved[name].detach() for name in names if name in saved}


def give(model: PreTrainedModel, tensors: dict[str, Tensor]) -> None:
    """The inverse of `tensors_of`; the tensors it replaces are not written to."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        if name in parameters:
            parameters[name].data = value.to(parameters[name].device)
        else:
            owner, _, buffer = name.rpartition(".")
            module = model.get_submodule(owner)
            put(module, buffer, value.to(getattr(module, buffer).device))


def cast(model: PreTrainedModel, dtypes: dict[str, torch.dtype]) -> dict[str, torch.dtype]:
    """Turn floating tensors into the named dtypes, or float32; says what they were."""
    found = {n: v for n, v in tensors_of(model).items() if v.is_floating_point()}
    give(model, {n: v.to(dtypes.get(n, torch.float32)) for n, v in found.items()})
    return {name: value.dtype for name, value in found.items()}


def _zeros(model: PreTrainedModel) -> list[tuple[Tensor, Tensor]]:
    """Where the weights inside the blocks are exactly zero: pruned."""
    weights: list[Tensor] = [layer.weight for layer in linears(model).values()]
    return [(weight, weight == 0) for weight in weights if bool((weight == 0).any())]


def _share(step: int, total: int, settings: Settings) -> float:
    """The share of lr at a step: rising, then falling as the schedule says."""
    rising = int(settings.warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return _DECAY[settings.schedule](min((step - rising) / max(total - rising, 1), 1.0))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the seed in here, and disturbs nobody's numbers outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
