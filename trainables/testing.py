"""The contract of methods, for users' own ones too: what every method owes, as plain functions.

    from trainables.testing import check_method

    def test_mine() -> None:
        check_method(Mine(share=0.5), model, batches)

Each function raises AssertionError with what was owed and what came.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.bench.metrics.cost import saved_bytes
from trainables.bench.models.batches import ready
from trainables.bench.models.save import EXACT, save
from trainables.bench.models.structure import blocks, family, linears, reach, rows
from trainables.core.cache import digest_tensors
from trainables.core.errors import FieldError
from trainables.core.fork import fork
from trainables.core.lineage import Lineage
from trainables.core.types import Batch, PreTrainedModel, Stats
from trainables.load import load
from trainables.stage import Method, Stage, Summary


def check_method(
    method: Method,
    model: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    others: Iterable[Method] = (),
    bad: Iterable[dict[str, Any]] = (),
) -> None:
    """Hold a method to everything below.

    Args:
        model: one that the method changes; it is not touched.
        batches: what the method calibrates on; the first one is also run for logits.
        others: the same method with other settings, whose effects are compared.
        bad: fields out of range, each to be refused.
    """
    check_calibration(method, model, batches)
    check_fork(method, model, batches)
    check_deterministic(method, model, batches)
    check_counts(method, model, batches)
    check_reload(method, model, batches)
    check_effects([method, *others], model, batches)
    check_data(method)
    for fields in bad:
        check_refused(method, fields)


@torch.no_grad()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What the model says to a batch."""
    found: Tensor = model(**ready(model, batch)).logits
    return found


def applied(
    method: Method, model: PreTrainedModel, batches: Sequence[Batch]
) -> tuple[PreTrainedModel, Summary]:
    """A fork with the method applied, and what it says of it."""
    own = fork(model)
    return own, method.apply(own, measured(method, model, batches))


def measured(method: Method, model: PreTrainedModel, batches: Sequence[Batch]) -> Stats:
    """What the calibration measures that a method's settings need."""
    kind = method.calibrator()
    return {} if kind is None else kind.calibrate(model, batches)


def check_calibration(method: Method, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Calibration leaves weights, hooks and mode untouched."""
    before, training = _identity(model), model.training
    measured(method, model, batches)
    assert _identity(model) == before, "calibration changed the model"
    assert _hooks(model) == 0, "calibration left hooks behind"
    assert model.training == training, "calibration changed the model's mode"


def check_fork(method: Method, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """What is done to a fork does not reach its base."""
    before, said = _identity(model), logits(model, batches[0])
    own, _ = applied(method, model, batches)
    assert _identity(model) == before, "apply wrote into a tensor that it shares: use put"
    assert torch.equal(logits(model, batches[0]), said), "apply changed the base model"
    assert not torch.equal(logits(own, batches[0]), said), "apply changed nothing"


def check_deterministic(method: Method, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """The same twice is the same."""
    (once, said), (again, told) = (applied(method, model, batches) for _ in range(2))
    assert torch.equal(logits(once, batches[0]), logits(again, batches[0])), "twice, two models"
    assert said.effects == told.effects, "twice, two effects"


def check_counts(method: Method, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Counts of blocks and neurons removed, and of zeros, match the model."""
    own, summary = applied(method, model, batches)
    if "removed" in summary.counts:
        left = len(blocks(model)) - summary.counts["removed"]
        assert len(blocks(own)) == left == summary.counts["blocks"], summary.counts
    if "neurons_removed" in summary.counts:
        before, after = _neurons(model), _neurons(own)
        assert before - after == summary.counts["neurons_removed"] > 0, summary.counts
        assert after == summary.counts["neurons"], summary.counts
    if "zeros" in summary.counts:
        zeros = sum(int((rows(layer) == 0).sum()) for layer in linears(own).values())
        assert zeros == summary.counts["zeros"] > 0, summary.counts
    text = json.dumps([dict(summary.counts), dict(summary.details)])
    assert text, "counts and details are plain data"


def check_reload(method: Method, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Saved as exports are and reloaded, in every form, it says the same; the file is as large as
    the metric says."""
    own, _ = applied(method, model, batches)
    wanted = logits(own, batches[0])
    with tempfile.TemporaryDirectory(prefix="rayduce-") as place:
        saved = save(own, None, "classification", Path(place))
        found = logits(load(place), batches[0])
        if saved.exact is None:
            assert torch.equal(wanted, found), "reloaded, another"
            size, said = Path(place, "model.safetensors").stat().st_size, saved_bytes(own)
            assert size == said, f"{size} bytes on disk, where {said} were to be"
            return
        assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-5), "reloaded, another"
        again = load(Path(place, EXACT))
        assert torch.equal(wanted, logits(again, batches[0])), "the exact form reloaded, another"


def check_effects(
    methods: Sequence[Method], model: PreTrainedModel, batches: Sequence[Batch]
) -> None:
    """Another model, another effect; an equal effect, equal tensors: what sharing relies on."""
    base = Lineage("base")
    found = {base.key: _identity(model)}
    for method in methods:
        own, summary = applied(method, model, batches)
        key = base.then(summary.effects, method.source()).key
        tensors = _identity(own)
        assert found.setdefault(key, tensors) == tensors, f"{method}: one effect, two models"
        assert summary.effects or tensors == found[base.key], f"{method}: no effect, a new model"


def check_data(stage: Stage) -> None:
    """As plain data and back it is the same stage."""
    again = Stage.from_dict(json.loads(json.dumps(stage.to_dict())))
    assert again == stage, f"{again} from {stage.to_dict()}"


def check_refused(method: Method, fields: dict[str, Any]) -> None:
    """A bad field is refused with its name, its value and what is allowed."""
    try:
        type(method)(**fields)
    except FieldError as error:
        name, value = next(iter(fields.items()))
        for part in (type(method).__name__, name, repr(value), "allowed"):
            assert part in str(error), f"{part} is missing in: {error}"
    else:
        raise AssertionError(f"{type(method).__name__} takes {fields}")


def _identity(model: PreTrainedModel) -> str:
    return digest_tensors(model.state_dict())


def _neurons(model: PreTrainedModel) -> int:
    row = family(model)
    contracts = [reach(block, row.contract) for block in blocks(model)]
    return sum(rows(layer).shape[1] for layer in contracts)  # type: ignore[arg-type]


def _hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
