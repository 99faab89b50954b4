"""Whether a model can be worked on at all, found out before anything is measured.

A family is known by its structure, which does not tell everything: a block may depend on its
number, or the config may count blocks in a place we do not know. So the first block that may go
is taken out of each stack of a fork. It must then say what the model says with those blocks
skipped, and the config must build it again: the same shapes, the same settings inside the blocks.
As all later blocks move up, whatever goes by number shows.
"""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainables.bench.models.batches import beginning, ready
from trainables.bench.models.structure import blocks, fixed_blocks, stacks
from trainables.bench.models.surgery import remove_blocks
from trainables.core.errors import ModelError, UserError
from trainables.core.fork import fork
from trainables.core.spec import Task
from trainables.core.types import Batch, PretrainedConfig, PreTrainedModel

_ROWS, _LENGTH = 2, 32  # examples to look at, and of texts so many tokens after the first pass
_SMALL = 20_000_000  # parameters up to which a model is saved
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest logit; 2 % of the others'
_WRITES: tuple[Task, ...] = ("language-modelling", "multiple-choice", "generation")


def check_model(model: PreTrainedModel, batch: Batch, task: Task) -> None:
    """Raise UserError, naming the model's type, unless all that is done here can be done to it.

    Args:
        batch: a few examples of the study's data.
    """
    few = {name: value[:_ROWS] for name, value in batch.items()}
    gone = _first_free(model)
    wanted = _trying(model, "a forward pass on the data fails", lambda: _logits(model, few))
    few = beginning(batch, _ROWS, _LENGTH)
    if not bool(torch.isfinite(wanted).all()):
        raise _error(model, "its logits are not all finite numbers: another dtype may help")
    if task in _WRITES and not model.config.is_encoder_decoder:
        _check_causal(model, few)
    if gone:
        _trying(model, "it cannot do with a block less", lambda: _check_cut(model, few, gone))


def _error(model: PreTrainedModel, what: str, do: str = "") -> ModelError:
    kind = f"model type {model.config.model_type} ({type(model).__name__})"
    return ModelError(f"{kind}: {what}", do=do)


def _trying(model: PreTrainedModel, what: str, act: Callable[[], Any]) -> Any:
    """What `act` returns; whatever it raises, in one sentence."""
    try:
        return act()
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers and torch raise all kinds
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _error(model, f"{what}: {said}") from error


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    found: Tensor = model(**ready(model, batch)).logits
    return found.float().cpu()


def _check_causal(model: PreTrainedModel, batch: Batch) -> None:
    """What is said of a text's beginning may not depend on its end."""
    ids = batch["input_ids"]
    if ids.shape[1] < 2:
        return
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % int(model.get_input_embeddings().num_embeddings)
    both = torch.cat([ids, other])
    read = _logits(model, {"input_ids": both, "attention_mask": torch.ones_like(both)})
    one, two = read.chunk(2)
    if not _close(one[:, :-1], two[:, :-1], model.dtype):
        raise _error(
            model,
            "it reads a text in both directions, so it cannot tell how likely the next token is",
            "use a causal model, or task = classification",
        )


def _close(one: Tensor, two: Tensor, dtype: torch.dtype) -> bool:
    allowed = _TOLERANCE.get(dtype, 2e-2) * max(float(two.abs().max()), 1e-3)
    return one.shape == two.shape and float((one - two).abs().max()) <= allowed


# -- one block less --------------------------------------------------------------------------------


def _first_free(model: PreTrainedModel) -> list[int]:
    """Of each stack that can spare one, the first block that may go."""
    fixed = fixed_blocks(model)
    found = []
    for stack in stacks(model):
        free = [n for n in range(stack.first, stack.first + len(stack.blocks)) if n not in fixed]
        if free and len(stack.blocks) > 1:
            found.append(free[0])
    return found


def _check_cut(model: PreTrainedModel, batch: Batch, gone: Sequence[int]) -> None:
    with _skipped(model, gone):
        wanted = _logits(model, batch)
    less = fork(model)
    remove_blocks(less, gone)
    text = f"without block {', '.join(map(str, gone))} "
    if not _close(_logits(less, batch), wanted, model.dtype):
        raise _error(model, f"{text}the others do not go on as before: they depend on their number")
    if found := differences(less):
        raise _error(model, f"{text}its config builds another model: {found[0]}")
    if model.num_parameters() <= _SMALL:
        _check_reload(less, batch, text)


@contextmanager
def _skipped(model: PreTrainedModel, numbers: Sequence[int]) -> Iterator[None]:
    """While open, these blocks hand on what they are given."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        given = args[0] if args else next(iter(kwargs.values()))
        return (given, *out[1:]) if isinstance(out, tuple) else given

    found = blocks(model)
    handles = [found[n].register_forward_hook(hook, with_kwargs=True) for n in numbers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_reload(model: PreTrainedModel, batch: Batch, text: str) -> None:
    """Saved and loaded it must say the same."""
    with tempfile.TemporaryDirectory(prefix="rayduce-") as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder, dtype=model.dtype).to(model.device).eval()
        if not _close(_logits(again, batch), _logits(model, batch), model.dtype):
            raise _error(model, f"{text}and reloaded it is another model")


def differences(model: PreTrainedModel) -> list[str]:
    """Where the model that its saved config would build differs: shapes, and what the modules
    inside its blocks say of themselves."""
    with torch.device("meta"):
        twin = type(model)(reread(model.config))
    mine, others = _shapes(model), _shapes(twin)
    names = dict.fromkeys([*mine, *others])
    found = [
        f"{name} is {others.get(name, 'not there')}, here {mine.get(name, 'not there')}"
        for name in names
        if mine.get(name) != others.get(name)
    ]
    for number, pair in enumerate(zip(blocks(model), blocks(twin), strict=True)):
        found += _settings_apart(number, *pair)
    return found


def reread(config: PretrainedConfig) -> PretrainedConfig:
    """A config as its file would give it."""
    kind = type(config)
    again: PretrainedConfig = kind.from_dict(json.loads(config.to_json_string()))
    again._attn_implementation = copy.copy(config._attn_implementation)
    return again


def _shapes(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _settings_apart(number: int, block: nn.Module, twin: nn.Module) -> Iterator[str]:
    others = dict(twin.named_modules())
    for path, module in block.named_modules():
        theirs = _settings(others[path]) if path in others else {}
        for name, value in _settings(module).items():
            if name in theirs and theirs[name] != value:
                where = f"{path}.{name}" if path else name
                yield f"block {number}'s {where} is {theirs[name]}, here {value}"


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module was built with, but for what matters in training only."""
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and not name.startswith(("_", "training", "drop"))
    }
