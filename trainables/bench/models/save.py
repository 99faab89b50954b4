"""A model as a folder that explains how it loads, and the proof that it does.

Where plain transformers can build the model from its config, that is the form. Feed-forward layers
of different widths, which no config can say, are padded with zeros to the widest, and the exact
form lies beside them. A model that is no transformers architecture saves itself.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainables.bench.models.load import HEADS
from trainables.core.spec import Task
from trainables.stage import Batch, PlanError
from trainables.bench.models.nonuniform import padded, save_exact

EXACT = "exact"  # the sub-folder of the exact form
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest logit


@runtime_checkable
class SavesItself(Protocol):
    """A model that transformers cannot load alone."""

    def save_to(self, folder: Path) -> str:
        """Write the folder; returns the Python that loads it as `model`, with `{folder}` in it."""


@dataclass(frozen=True)
class Saved:
    """How a folder loads.

    Attributes:
        load: Python that makes `model`; `{folder}` stands for the folder's place.
        plain: whether transformers alone can.
        note: what else there is to know.
        exact: the Python for the exact form, where `load` gives a padded one.
    """

    load: str
    plain: bool = True
    note: str = ""
    exact: str | None = None


def save(model: nn.Module, processor: Any, task: Task, folder: Path) -> Saved:
    """Write a model and its processor into a folder that exists.

    Raises PlanError for a model that nothing here can save.
    """
    if processor is not None:
        processor.save_pretrained(folder)
    if isinstance(model, SavesItself):
        return Saved(model.save_to(folder), plain=False, note="Needs Rayduce beside transformers.")
    if not isinstance(model, PreTrainedModel):
        raise PlanError(f"{type(model).__name__} is no transformers model and has no save_to")
    line = "from transformers import {head}\nmodel = {head}.from_pretrained({folder})"
    load = line.replace("{head}", HEADS[task].__name__)
    if not misfits(model):
        model.save_pretrained(folder)
        return Saved(load)
    (folder / EXACT).mkdir()
    exact = save_exact(model, folder / EXACT)
    padded(model).save_pretrained(folder)
    note = (
        "Its feed-forward layers differ in width, which a config cannot say: here they are padded "
        f"with zeros to the widest. `{EXACT}/` holds them as they are, smaller and faster."
    )
    return Saved(load, note=note, exact=exact.replace("{folder}", f"{{folder}} + '/{EXACT}'"))


def misfits(model: PreTrainedModel) -> list[str]:
    """The tensors whose shapes the config does not tell: transformers could not load them."""
    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
    expected = {name: value.shape for name, value in twin.state_dict().items()}
    found = {name: value.shape for name, value in model.state_dict().items()}
    names = dict.fromkeys([*expected, *found])
    return [name for name in names if expected.get(name) != found.get(name)]


# -- the proof ---------------------------------------------------------------------------------

CHECK = """
import json, sys
import torch
from safetensors.torch import load_file
torch.set_num_threads({threads})
{load}
tensors = load_file(sys.argv[1])
wanted = tensors.pop("wanted")
model = model.eval().to("{device}")
with torch.no_grad():
    given = {name: value.to("{device}") for name, value in tensors.items()}
    found = model(**given).logits.float().cpu()
same = found.shape == wanted.shape
print(json.dumps({
    "shape": same,
    "equal": same and bool(torch.equal(found, wanted)),
    "difference": float((found - wanted).abs().max()) if same else None,
}))
"""


@dataclass(frozen=True)
class Proof:
    """What a fresh process found: `difference` is the largest one between two logits."""

    equal: bool
    difference: float

    def __str__(self) -> str:
        return "identical logits" if self.equal else f"logits within {self.difference:.2g}"


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> Tensor:
    """What a model says to a batch, on the CPU."""
    device = next(model.parameters()).device
    found: Tensor = model(**{name: value.to(device) for name, value in batch.items()}).logits
    return found.float().cpu()


def prove(load: str, folder: Path, model: nn.Module, batch: Batch) -> Proof:
    """Load a saved folder in a fresh process, by the very lines its card shows, and compare.

    Raises PlanError where it does not load, or says something else.
    """
    wanted = logits(model, batch)
    first = next(model.parameters())
    with tempfile.TemporaryDirectory(prefix="rayduce-") as place:
        tensors = {name: value.cpu().contiguous() for name, value in batch.items()}
        save_file({**tensors, "wanted": wanted.contiguous()}, Path(place, "batch.safetensors"))
        script = _filled(load.replace("{folder}", repr(str(folder))), first.device)
        Path(place, "check.py").write_text(script)
        found = _run([str(Path(place, "check.py")), str(Path(place, "batch.safetensors"))])
    allowed = TOLERANCE.get(first.dtype, 1e-4) * max(1.0, float(wanted.abs().max()))
    if not found["shape"] or not found["difference"] <= allowed:
        raise PlanError(
            f"the saved model is not the one that was saved: its logits differ by "
            f"{found['difference']} (allowed: {allowed:.2g}); nothing was exported"
        )
    return Proof(found["equal"], found["difference"])


def _filled(load: str, device: torch.device) -> str:
    text = CHECK.replace("{load}", load).replace("{device}", str(device))
    return text.replace("{threads}", str(torch.get_num_threads()))


def _run(arguments: list[str]) -> Any:
    root = str(Path(__file__).resolve().parent.parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PlanError(f"the saved model does not load in a fresh process: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
