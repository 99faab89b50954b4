"""The proof that a saved model loads: a fresh process loads it and compares the logits."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.bench.models.batches import ready
from trainables.core.errors import PlanError
from trainables.core.places import CHECKOUT
from trainables.core.types import Batch, PreTrainedModel

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest logit


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
gaps = torch.zeros(1)  # infinities and no numbers, as float16 gives, are equal to themselves
if same:
    alike = (found == wanted) | (found.isnan() & wanted.isnan())
    gaps = (found - wanted).abs().masked_fill(alike, 0.0)
measured = {}
{measure}
print(json.dumps({
    "measured": measured,
    "shape": same,
    "equal": same and bool((gaps == 0).all()),
    "difference": float(gaps.max()) if same else None,
}))
"""


@dataclass(frozen=True)
class Proof:
    """What a fresh process found.

    Attributes:
        difference: the largest one between two logits.
        measured: what was asked to be measured besides.
    """

    equal: bool
    difference: float
    measured: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return "identical logits" if self.equal else f"logits within {self.difference:.2g}"


@torch.no_grad()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What a model says to a batch, on the CPU."""
    found: Tensor = model(**ready(model, batch)).logits
    return found.float().cpu()


def prove(
    load: str, folder: Path, model: PreTrainedModel, batch: Batch, measure: str = ""
) -> Proof:
    """Load a saved folder in a fresh process, by the very lines its card shows, and compare.

    Args:
        measure: Python that makes a table `measured` of `model` and a batch `given`.

    Raises PlanError where it does not load, or says something else.
    """
    wanted = logits(model, batch)
    first = next(model.parameters())
    with tempfile.TemporaryDirectory(prefix="rayduce-") as place:
        tensors = {name: value.cpu().contiguous() for name, value in ready(model, batch).items()}
        save_file({**tensors, "wanted": wanted.contiguous()}, Path(place, "batch.safetensors"))
        script = _filled(load.replace("{folder}", repr(str(folder))), first.device, measure)
        Path(place, "check.py").write_text(script)
        found = run_fresh([str(Path(place, "check.py")), str(Path(place, "batch.safetensors"))])
    largest = float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max())
    allowed = TOLERANCE.get(first.dtype, 1e-4) * max(1.0, largest)
    if not found["shape"] or not found["difference"] <= allowed:
        raise PlanError(
            f"the saved model is not the one that was saved: its logits differ by "
            f"{found['difference']} (allowed: {allowed:.2g}); nothing was exported"
        )
    return Proof(found["equal"], found["difference"], found.get("measured", {}))


def _filled(load: str, device: torch.device, measure: str) -> str:
    text = CHECK.replace("{load}", load).replace("{device}", str(device))
    text = text.replace("{measure}", measure)
    return text.replace("{threads}", str(torch.get_num_threads()))


def run_fresh(arguments: list[str]) -> Any:
    """What Python, started with these arguments where our packages are found, prints as JSON.

    Raises PlanError where it ends in an error.
    """
    root = str(CHECKOUT)
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
