"""A model as a folder that explains how it loads, and the proof that it does.

Where plain transformers can build the model from its config, that is the form. Feed-forward layers
of different widths, which no config can say, are padded with zeros to the widest, and the exact
form lies beside them. Weights that take fewer bits than transformers can say are packed. A model
that is no transformers architecture saves itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import nn
from transformers import PreTrainedModel

from trainables.bench.models.batches import reads_targets
from trainables.bench.models.load import head_for
from trainables.bench.models.nonuniform import LOAD, misfits, padded, save_exact
from trainables.bench.models.packed.form import needs_packing, save_packed
from trainables.bench.models.packed.quantized import for_transformers, schemes
from trainables.core.errors import PlanError
from trainables.core.spec import Task

EXACT = "exact"  # the sub-folder of the exact form
PACKED = (
    "Weights are stored in fewer bits and made anew when the model is loaded, which needs Rayduce "
    "beside transformers. The file is smaller; once loaded it takes as much memory, and as long."
)
TORCHAO = "Its weights are torchao's, which must be installed beside transformers."
Form: TypeAlias = Literal["plain", "exact"]  # what the folder itself is to hold


@runtime_checkable
class SavesItself(Protocol):
    """A model that transformers cannot load alone."""

    def save_to(self, folder: Path) -> str:
        """Write the folder; returns the Python that loads it as `model`, with `{folder}` in it."""


@runtime_checkable
class Contains(Protocol):
    """A model that has parts of other models in it."""

    @property
    def contains(self) -> Mapping[str, str]:
        """What of others is in it -> its licence, "unknown" where nothing says."""


@dataclass(frozen=True)
class Saved:
    """How a folder loads.

    Attributes:
        load: Python that makes `model`; `{folder}` stands for the folder's place.
        plain: whether transformers alone can.
        note: what else there is to know.
        exact: the Python for the exact form, where `load` gives a padded one.
        licences: what of other models is inside -> its licence.
    """

    load: str
    plain: bool = True
    note: str = ""
    exact: str | None = None
    licences: Mapping[str, str] = field(default_factory=dict)

    @property
    def forms(self) -> dict[str, str]:
        """The Python that loads each form, by the sub-folder that holds it."""
        return {"": self.load} | ({EXACT: self.exact} if self.exact else {})


def save(model: nn.Module, processor: Any, task: Task, folder: Path, form: Form = "plain") -> Saved:
    """Write a model and its processor into a folder that exists.

    Args:
        form: what to write of a model that plain transformers cannot build as it is: `plain`,
            which it can, and the exact one in a sub-folder; or `exact`, that one alone.

    Raises PlanError for a model that nothing here can save.
    """
    if processor is not None:
        processor.save_pretrained(folder)
    if isinstance(model, SavesItself):
        inside = dict(model.contains) if isinstance(model, Contains) else {}
        parts = "; ".join(inside)
        note = f"Inside is {parts}. " * bool(parts) + "Needs Rayduce beside transformers."
        return Saved(model.save_to(folder), plain=False, note=note, licences=inside)
    if not isinstance(model, PreTrainedModel):
        raise PlanError(f"{type(model).__name__} is no transformers model and has no save_to")
    if needs_packing(model):
        return Saved(write(model, folder), plain=False, note=PACKED)
    own_code = ", trust_remote_code=True" if getattr(model.config, "auto_map", None) else ""
    head = head_for(task, reads_targets(model)).__name__
    load = f"from transformers import {head}\nmodel = {head}.from_pretrained({{folder}}{own_code})"
    if not misfits(model):
        write(model, folder)
        return Saved(load, note=TORCHAO if schemes(model) else "")
    if form == "exact":
        note = "Its feed-forward layers differ in width: it needs Rayduce beside transformers."
        return Saved(save_exact(model, folder), plain=False, note=note)
    (folder / EXACT).mkdir()
    exact = save_exact(model, folder / EXACT)
    padded(model).save_pretrained(folder)
    note = (
        "Its feed-forward layers differ in width, which a config cannot say: here they are padded "
        f"with zeros to the widest. `{EXACT}/` holds them as they are."
    )
    return Saved(load, note=note, exact=exact.replace("{folder}", f"{{folder}} + '/{EXACT}'"))


def write(model: PreTrainedModel, folder: Path) -> str:
    """Write weights and config of a model that its config describes, packed where that is smaller;
    returns the Python that loads it, with `{folder}` in it."""
    if needs_packing(model):
        return save_packed(model, folder)
    (for_transformers(model) if schemes(model) else model).save_pretrained(folder)
    return LOAD
