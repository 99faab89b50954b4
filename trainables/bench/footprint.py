"""How much memory a trial takes on its device: counted on torch's meta device, where tensors have
sizes and no contents, from the model's own configuration. No weight is read.

What a worker holds at once: the base model's weights, which all its trials share; a trial's own
tensors, at most all weights inside the blocks anew, as Wanda or a merged training makes them; and
what a pass makes on its way. Kernels' own scratch memory and CUDA's context are not in it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from trainables.bench.metrics.cost import added_bytes, own_bytes
from trainables.bench.metrics.predictions import SLICE
from trainables.bench.models.cards import layout
from trainables.bench.models.hub import fetch_file
from trainables.bench.models.load import head_for, load_config, locate
from trainables.bench.models.structure import blocks
from trainables.bench.training.adapters import adapted
from trainables.bench.training.loop import checkpointed
from trainables.core.errors import ModelError, PlanError
from trainables.core.spec import BenchSpec, DataSpec, ModelSpec, Task, TrainSpec
from trainables.core.types import Batch

FLOAT = 4  # bytes of a float32
SPARE = 1.5e9  # bytes of a card that CUDA itself and its kernels take


@dataclass(frozen=True)
class Footprint:
    """Bytes on a device; of several cards, on the fullest.

    Attributes:
        weights: the base model.
        own: the most that a trial has of its own.
        passing: the most that is alive during a pass over a batch, the loss included.
    """

    weights: int
    own: int
    passing: int

    @property
    def most(self) -> int:
        """At once."""
        return self.weights + self.own + self.passing

    def parts(self) -> str:
        """In words."""
        told = {"weights": self.weights, "a trial's own": self.own, "a pass": self.passing}
        return ", ".join(f"{name} {size / 1e9:.1f}" for name, size in told.items())


def footprint(spec: BenchSpec) -> Footprint:
    """A study's trial, in evaluation.

    Raises ModelError where the configuration cannot be had.
    """
    model = empty(load_config(_folder(spec.model), spec.model), spec.model, spec.data.task)
    return count(model, batch_like(model, spec.data), spec.cards)


def items_that_fit(
    spec: BenchSpec, config: PretrainedConfig, room: float, rows: int, most: int
) -> int:
    """How many items may go through a model together: the largest power of two, at least one.

    Args:
        room: bytes that a trial may take in all.
        rows: of an item, such as the choices of a question.
        most: items that there are.
    """
    model = empty(config, spec.model, spec.data.task)
    sizes = [spec.data.model_copy(update={"batch_size": rows * number}) for number in (1, 2)]
    one, two = (count(model, batch_like(model, data), spec.cards) for data in sizes)
    each = max(two.passing - one.passing, 1)
    fitting = int((room - one.most) / each) + 1
    found: int = 2 ** (max(1, min(fitting, most)).bit_length() - 1)
    return found


def room_on(device: torch.device) -> float:
    """Bytes of a card that this process may take."""
    _, size = torch.cuda.mem_get_info(device)
    share: float = torch.cuda.get_per_process_memory_fraction(device)
    return size * share - SPARE


def _folder(spec: ModelSpec) -> Path:
    """Where the configuration lies; of a hub id that alone is fetched."""
    if ":" in spec.id or Path(spec.id).expanduser().is_absolute():
        return locate(spec)
    found = fetch_file(spec.id, "config.json", spec.revision)
    if found is None:
        raise ModelError(f"model {spec.id!r}: no config.json")
    return found.parent


def empty(config: PretrainedConfig, spec: ModelSpec, task: Task) -> PreTrainedModel:
    """A model without contents, in the dtype of a study."""
    head = head_for(task, bool(getattr(config, "is_encoder_decoder", False)))
    with torch.device("meta"):
        model: PreTrainedModel = head.from_config(
            config, dtype=getattr(torch, spec.dtype), trust_remote_code=spec.trust_remote_code
        )
    return model.eval()


def batch_like(model: PreTrainedModel, data: DataSpec) -> Batch:
    """A batch of the sizes that a study asks for, without contents."""
    size, config = data.batch_size or 1, model.config
    with torch.device("meta"):
        if data.task == "image-classification":
            side = getattr(config, "image_size", 224)
            shape = (side, side) if isinstance(side, int) else tuple(side)
            channels = getattr(config, "num_channels", 3)
            return {"pixel_values": torch.empty(size, channels, *shape, dtype=model.dtype)}
        tokens = torch.empty(size, data.max_length, dtype=torch.long)
        batch = {"input_ids": tokens}
        if getattr(config, "is_encoder_decoder", False):
            batch["labels"] = torch.empty_like(tokens)
    return batch


@torch.no_grad()
def count(model: PreTrainedModel, batch: Batch, cards: int = 1) -> Footprint:
    """What a trial's evaluation holds, its blocks spread over so many cards."""
    passing = added_bytes(model, batch, lambda: model(**batch))
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", 0)
    classes = "pixel_values" in batch or "input_ids" not in batch
    loss = 0 if classes else 2 * SLICE * vocabulary * FLOAT  # logits and their logarithms
    if cards == 1:
        return Footprint(own_bytes(model), block_bytes(model), passing + loss)
    found, places = blocks(model), layout(model, cards)
    runs = [[found[at] for at, place in enumerate(places) if place == n] for n in range(cards)]
    parts = [own_bytes(nn.ModuleList(run)) for run in runs]
    rest = own_bytes(model) - sum(parts)
    most = max((part + (0 if n else rest), part) for n, part in enumerate(parts))
    return Footprint(*most, passing + loss)


def block_bytes(model: PreTrainedModel) -> int:
    """Of all weights inside the blocks; of the whole model, where its family is not known."""
    try:
        parameters = {id(p): p for block in blocks(model) for p in block.parameters()}
    except PlanError:
        parameters = {id(p): p for p in model.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values())


# -- training ------------------------------------------------------------------------------------

MOMENTS = {
    "adamw": 8.0,
    "adam": 8.0,
    "sgd": 4.0,
    "adamw-8bit": 2.0 + 2 * FLOAT / 256,
}  # a parameter


@dataclass(frozen=True)
class TrainingFootprint:
    """Bytes on a device while a trial's model is retrained.

    Attributes:
        weights: the base model, in its own dtype.
        own: what the trial has of its own: with adapters its compressed weights and theirs, else
            all weights as float32.
        states: the optimiser's.
        passing: the most that is alive in a pass forward and back, gradients included.
    """

    weights: int
    own: int
    states: int
    passing: int

    @property
    def most(self) -> int:
        """At once."""
        return self.weights + self.own + self.states + self.passing


def count_training(model: PreTrainedModel, batch: Batch, spec: TrainSpec) -> TrainingFootprint:
    """What retraining a model without contents would hold, of whose blocks all weights are a
    trial's own.

    Args:
        batch: of one pass; with `accumulate` a step has several, one after another.
    """
    weights, own = own_bytes(model), block_bytes(model)
    model.train()
    if not spec.lora_rank:
        model.float()
        own = own_bytes(model)
    with adapted(model, spec), checkpointed(model, spec):
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        count = sum(parameter.numel() for parameter in learning)
        if spec.lora_rank:
            own += FLOAT * count
        passing = added_bytes(model, batch, lambda: _pass(model, batch))
    states = int(MOMENTS[spec.optimiser] * count)
    return TrainingFootprint(weights, own, states, passing)


def _pass(model: PreTrainedModel, batch: Batch) -> None:
    """In the model's own dtypes, which take no less than mixed ones."""
    given = {"labels": batch.get("input_ids"), **batch}
    if "input_ids" in batch and not model.config.is_encoder_decoder:
        size, length = batch["input_ids"].shape  # a whole mask, or its contents would be asked for
        given["attention_mask"] = torch.ones(
            size, 1, length, length, dtype=torch.bool, device=model.device
        )
    model(**given).loss.backward()
