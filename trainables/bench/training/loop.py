"""The training loop: plain torch, deterministic, goes on where it stopped.

Whoever trains says what is learned and how (`Recipe`); the loop knows neither data nor methods.
"""

import math
import os
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from trainables.bench.training.freeze import train_mode
from trainables.core.alone import pause
from trainables.core.errors import PlanError
from trainables.core.fork import put
from trainables.core.spec import TrainSpec
from trainables.core.types import Batch, PreTrainedModel, Progress

TrainingSteps: TypeAlias = Generator[Progress, None, list[Progress]]
Loss: TypeAlias = Callable[[PreTrainedModel, Batch], Tensor]  # a scalar
JUDGED = "search_loss"  # what patience compares: the name `Recipe.judge` gives it


def _adamw_8bit(*args: Any, **settings: Any) -> torch.optim.Optimizer:
    from torchao.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(*args, **settings)
    return made


_OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adamw-8bit": _adamw_8bit,
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


@dataclass(frozen=True)
class Recipe:
    """What is learned, and how.

    Attributes:
        spec: epochs, optimiser, learning rate and so on.
        batches: an epoch's batches, in an order of the seed; called with dropout seeded alike.
        steps: how many batches an epoch has.
        loss: what is made small.
        seed: of an epoch, by its number from 1 on.
        rate: step -> share of the learning rate; by default as `spec` says.
        clip: the norm to which all gradients together are cut.
        decays: whether weight decay takes hold of a parameter; by default of all.
        judge: what to report after an epoch besides its training loss.
        patience: epochs without a better `search_loss` before stopping; 0: never.
        best: what decides which epoch's weights stay: its name in what `judge` says, and whether
            more is better. By default the last epoch's, or with patience the least `search_loss`.
        still: blocks that do not learn.
        beside: what learns along and is no part of the model.
        zeros: (a parameter, where it stays zero); looked at after every step.
        before: called before every step, with how many there were.
    """

    spec: TrainSpec
    batches: Callable[[int], Iterable[Batch]]
    steps: int
    loss: Loss
    seed: Callable[[int], int]
    rate: Callable[[int], float] | None = None
    clip: float | None = None
    decays: Callable[[nn.Parameter], bool] = lambda parameter: True
    judge: Callable[[], Progress] = dict
    patience: int = 0
    best: tuple[str, bool] | None = None
    still: Sequence[int] = ()
    beside: nn.Module = field(default_factory=nn.Module)
    zeros: Sequence[tuple[Tensor, Tensor]] = ()
    before: Callable[[int], None] = lambda step: None


def train(model: PreTrainedModel, recipe: Recipe, checkpoint: Path | None = None) -> TrainingSteps:
    """Train the model in place, yielding after every epoch; what was yielded comes back.

    Args:
        checkpoint: where every epoch is kept, to go on from after an interruption, to the same
            weights. Epochs kept there are told again. Whoever calls deletes it.

    Raises:
        PlanError: the loss is no number any more.
    """
    run = Training(model, recipe)
    with checkpointed(model, recipe.spec):
        if checkpoint is not None and run.resume(checkpoint):
            yield from run.progress
        while not run.over():
            step = run.epoch()
            if checkpoint is not None and not run.over():
                run.save(checkpoint)
            yield step
    run.finish()
    return run.progress


@contextmanager
def checkpointed(model: PreTrainedModel, spec: TrainSpec) -> Iterator[None]:
    """Inside, blocks are computed again for their gradients, where the spec says so."""
    if not spec.checkpointing:
        yield
        return
    if not model.supports_gradient_checkpointing:
        raise PlanError(f"checkpointing: {type(model).__name__} cannot", do="leave it out")
    model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


class Training:
    """One training in progress: everything that changes from epoch to epoch."""

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        everything = (*model.parameters(), *recipe.beside.parameters())
        self.learnable = [p for p in everything if p.requires_grad]
        spec, total = recipe.spec, steps_of(recipe.spec, recipe.steps)
        self.optimiser = _OPTIMISERS[spec.optimiser](
            _groups(self.learnable, recipe.decays, spec.weight_decay),
            lr=spec.lr,
            weight_decay=spec.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, recipe.rate or (lambda step: share(step, total, spec))
        )
        self.progress: list[Progress] = []
        self.best: dict[str, Tensor] | None = None

    def over(self) -> bool:
        """Whether all epochs ran, or the last ones brought nothing."""
        if self._enough():
            return True
        done, patience = len(self.progress), self.recipe.patience
        if done >= self.recipe.spec.epochs or not patience or not done:
            return done >= self.recipe.spec.epochs
        losses = [step[JUDGED] for step in self.progress]
        return done - 1 - losses.index(min(losses)) >= patience

    def _enough(self) -> bool:
        most = self.recipe.spec.max_steps
        return most is not None and self.schedule.last_epoch >= most

    def epoch(self) -> Progress:
        """Train once through the data; says how it went."""
        number = len(self.progress) + 1
        seed = self.recipe.seed(number)
        total, count = 0.0, 0
        with seeded(seed, self.model.device), deterministic(self.model.device):
            train_mode(self.model, self.recipe.still)
            for batches in grouped(self.recipe.batches(seed), self.recipe.spec.accumulate):
                sizes = [len(next(iter(batch.values()))) for batch in batches]
                total, count = total + self._step(batches, sizes), count + sum(sizes)
                if self._enough():
                    break
            self.model.eval()
        step = {"epoch": float(number), "train_loss": total / count, **self.recipe.judge()}
        self.progress.append(step)
        self._keep_best()
        return step

    def _step(self, batches: Sequence[Batch], sizes: Sequence[int]) -> float:
        """One step on batches together, each by its share of examples; their summed losses."""
        self.recipe.before(self.schedule.last_epoch)
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for batch, size in zip(batches, sizes, strict=True):
            pause()
            with mixed(self.model, self.recipe.spec):
                loss = self.recipe.loss(self.model, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise PlanError(f"the training loss is {value}", do="lower lr")
            total += value * size
            shared = loss if len(sizes) == 1 else loss * (size / sum(sizes))
            shared.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.learnable, self.recipe.clip)
        self.optimiser.step()
        self.schedule.step()
        for parameter, mask in self.recipe.zeros:
            parameter.data.masked_fill_(mask, 0)
        return total

    def _keep_best(self) -> None:
        kept = self.recipe.best or ((JUDGED, False) if self.recipe.patience else None)
        if kept is None:
            return
        name, more = kept
        values = [step[name] if more else -step[name] for step in self.progress]
        if values[-1] == max(values) and values.count(values[-1]) == 1:
            self.best = {n: v.clone() for n, v in learned_of(self.model).items()}

    def finish(self) -> None:
        """Leave the best epoch's weights in the model, where epochs were compared."""
        if self.best is not None:
            give(self.model, self.best)

    def save(self, path: Path) -> None:
        """Everything needed to go on, written whole or not at all."""
        state = {
            "model": learned_of(self.model),
            "beside": self.recipe.beside.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": self.progress,
            "best": self.best,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def resume(self, path: Path) -> bool:
        """Go on from what `save` wrote; whether there was anything to read."""
        state = _read(path, self.model.device)
        if state is None:
            return False
        with torch.no_grad():
            mine = tensors_of(self.model)
            for name, value in state["model"].items():
                mine[name].copy_(value)
        self.recipe.beside.load_state_dict(state["beside"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress, self.best = state["progress"], state["best"]
        return True


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint; None where there is none, or the disk lost a part of it."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return None
    return state


# -- weights -------------------------------------------------------------------------------------


def tensors_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights and buffers that are saved, tied ones once."""
    saved = model.state_dict()
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return {name: saved[name].detach() for name in names if name in saved}


def learned_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The same without the parameters that cannot learn: what training changes, at most."""
    still = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value for name, value in tensors_of(model).items() if name not in still}


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


# -- steps ---------------------------------------------------------------------------------------


def steps_of(spec: TrainSpec, batches: int) -> int:
    """How many steps a training has, of so many batches an epoch."""
    whole = spec.epochs * -(-batches // spec.accumulate)
    return min(whole, spec.max_steps or whole)


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """So many batches at a time; the last may be fewer."""
    every = iter(batches)
    while some := list(islice(every, size)):
        yield some


def share(step: int, total: int, spec: TrainSpec) -> float:
    """The share of lr at a step: rising, then falling as the schedule says."""
    rising = int(spec.warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return _DECAY[spec.schedule](min((step - rising) / max(total - rising, 1), 1.0))


def _groups(
    learnable: Sequence[nn.Parameter], decays: Callable[[nn.Parameter], bool], decay: float
) -> list[dict[str, Any]]:
    """What the optimiser takes: the parameters that decay, and those that do not."""
    apart = [[p for p in learnable if decays(p) is wanted] for wanted in (True, False)]
    rates = (decay, 0.0)
    return [
        {"params": some, "weight_decay": rate}
        for some, rate in zip(apart, rates, strict=True)
        if some
    ]


def mixed(model: PreTrainedModel, spec: TrainSpec) -> torch.autocast:
    """Inside, products are in bfloat16, where the spec says so."""
    enabled = spec.precision == "bfloat16"
    return torch.autocast(model.device.type, torch.bfloat16, enabled=enabled)


# -- the same again ------------------------------------------------------------------------------


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from the seed in here, and disturbs nobody's numbers outside."""
    cards = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(cards):
        torch.manual_seed(seed)
        yield


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it once, at a process's first product


def settle_products(device: torch.device) -> None:
    """Let matrix products on a GPU come out the same every time: to be called before the first."""
    if device.type == "cuda":
        os.environ.setdefault(WORKSPACE, ":4096:8")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Inside, what runs on a GPU comes out the same every time, as far as torch can; a kernel that
    cannot warns. A CPU with the same threads needs nothing."""
    if device.type != "cuda":
        yield
        return
    settle_products(device)
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(strict, warn_only=warns)
