"""Loading what a study names: a hub id, a local folder or a packaged asset."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from trainables.bench.assets.fetch import fetch, home
from trainables.core.cache import digest
from trainables.core.errors import PlanError
from trainables.core.spec import ModelSpec, Task

HEADS: dict[Task, Any] = {
    "language-modelling": AutoModelForCausalLM,
    "multiple-choice": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
    "generation": AutoModelForSeq2SeqLM,
}


def locate(spec: ModelSpec) -> Path:
    """The local folder that holds the model; a hub id is downloaded once.

    Raises PlanError if there is no such folder or hub id.
    """
    if spec.id.startswith("new:"):
        return fresh(spec)
    if spec.id.startswith("asset:"):
        return fetch(spec.id.removeprefix("asset:"))
    folder = Path(spec.id).expanduser()
    if (folder / "config.json").exists():
        return folder.resolve()
    if folder.is_absolute() or spec.id.startswith("."):
        raise PlanError(f"model {spec.id!r}: no config.json in that folder")
    return _download(spec)


def fresh(spec: ModelSpec) -> Path:
    """The folder of a model with random weights, the same for the same fields; made once.

    Raises PlanError on a type or field that transformers does not know.
    """
    key = digest(spec.id, spec.config, spec.tokenizer, transformers.__version__)
    folder = home() / f"new-{key}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_there(folder.parent), prefix=".making-") as place:
            made = Path(place, "made")
            try:
                config = AutoConfig.for_model(spec.id.removeprefix("new:"), **spec.config)
                torch.manual_seed(0)
                AutoModel.from_config(config).save_pretrained(made)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise PlanError(f"model {spec.id!r} with [model.config]: {error}") from error
            if spec.tokenizer is not None:
                source = locate(ModelSpec(id=spec.tokenizer))
                AutoTokenizer.from_pretrained(source).save_pretrained(made)
            with contextlib.suppress(OSError):  # another worker made the same
                made.rename(folder)
    return folder


def _there(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _download(spec: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            spec.id,
            revision=spec.revision,
            allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
        )
    except Exception as error:  # the hub raises many kinds; the user needs one message
        raise PlanError(
            f"model {spec.id!r}: not a local folder, and the hub says {type(error).__name__}: "
            f"{str(error).splitlines()[0]}; give a folder, a hub id you can reach, or asset:NAME"
        ) from error
    return Path(found)


def load_processor(folder: Path, task: Task) -> Any | None:
    """The tokenizer, or for images the processor; None where an image model brings none."""
    if task != "image-classification":
        return AutoTokenizer.from_pretrained(folder)
    if not (folder / "preprocessor_config.json").exists():
        return None
    return AutoImageProcessor.from_pretrained(folder)


def load_model(folder: Path, spec: ModelSpec, task: Task, labels: tuple[str, ...]) -> Any:
    """The model in evaluation mode on the CPU, weights memory-mapped where its dtype allows.

    A head the folder does not hold is initialised for `labels` from a fixed seed.
    """
    options: dict[str, Any] = {"dtype": getattr(torch, spec.dtype)}
    if labels and "classification" in task:
        names = dict(enumerate(labels))
        options |= {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    torch.manual_seed(0)
    head = head_for(task, is_encoder_decoder(folder))
    model: PreTrainedModel = head.from_pretrained(folder, **options)
    return model.eval()


def head_for(task: Task, encoder_decoder: bool) -> Any:
    """The class of transformers that loads a model for a task."""
    writes_on = task == "generation" and not encoder_decoder
    return AutoModelForCausalLM if writes_on else HEADS[task]


def is_encoder_decoder(folder: Path) -> bool:
    """Whether the model reads with one stack and writes with another."""
    return bool(getattr(AutoConfig.from_pretrained(folder), "is_encoder_decoder", False))
