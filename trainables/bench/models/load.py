"""Loading what a study names: a hub id, a local folder or a packaged asset."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
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
    PretrainedConfig,
    PreTrainedModel,
)

from trainables.bench.assets.fetch import fetch, home
from trainables.bench.models.hub import download
from trainables.core.cache import digest
from trainables.core.errors import ModelError, UserError
from trainables.core.spec import ModelSpec, Task

HEADS: dict[Task, Any] = {
    "language-modelling": AutoModelForCausalLM,
    "multiple-choice": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
    "generation": AutoModelForSeq2SeqLM,
}
_HEADS = r"For(Sequence|Image)Classification\b"


def locate(spec: ModelSpec) -> Path:
    """The local folder that holds the model; a hub id is downloaded once.

    Raises ModelError if there is no such folder or hub id.
    """
    if spec.id.startswith("new:"):
        return fresh(spec)
    if spec.id.startswith("asset:"):
        return fetch(spec.id.removeprefix("asset:"))
    folder = Path(spec.id).expanduser()
    if (folder / "config.json").exists():
        return folder.resolve()
    if folder.is_absolute() or spec.id.startswith("."):
        raise ModelError(f"model {spec.id!r}: no config.json in that folder")
    return download(spec)


def fresh(spec: ModelSpec) -> Path:
    """The folder of a model with random weights, the same for the same fields; made once.

    Raises ModelError on a type or field that transformers does not know.
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
                raise ModelError(f"model {spec.id!r} with [model.config]: {error}") from error
            if spec.tokenizer is not None:
                source = ModelSpec(id=spec.tokenizer)
                tokenizer: Any = load_processor(locate(source), source, "classification")
                tokenizer.save_pretrained(made)
            with contextlib.suppress(OSError):  # another worker made the same
                made.rename(folder)
    return folder


def _there(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load_config(folder: Path, spec: ModelSpec) -> PretrainedConfig:
    """The config of a located model; ModelError where transformers does not know its type."""
    with _told(spec):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=spec.trust_remote_code
        )
    return config


def load_processor(folder: Path, spec: ModelSpec, task: Task) -> Any | None:
    """The tokenizer, or for images the processor; None where an image model brings none.

    Raises ModelError for a tokenizer without a vocabulary, or one that cannot be read here.
    """
    trust = {"trust_remote_code": spec.trust_remote_code}
    if task == "image-classification":
        if not (folder / "preprocessor_config.json").exists():
            return None
        with _told(spec):
            return AutoImageProcessor.from_pretrained(folder, **trust)
    load_config(folder, spec)  # whose troubles are not the tokenizer's
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    except Exception as error:  # from several libraries
        raise _untokenized(folder, spec, error) from error
    files = (getattr(tokenizer, "vocab_files_names", None) or {}).values()
    if files and not any((folder / name).exists() for name in files):
        raise _untokenized(folder, spec, None)  # transformers would make up an empty one
    return tokenizer


def _untokenized(folder: Path, spec: ModelSpec, error: Exception | None) -> ModelError:
    pieces = [p.name for p in (*folder.glob("*.model"), *folder.glob("*.tiktoken"))]
    if error is not None and pieces and not (folder / "tokenizer.json").exists():
        return ModelError(
            f"model {spec.id!r}: its tokenizer is only there as {pieces[0]}",
            do="pip install sentencepiece tiktoken, load it once with AutoTokenizer and save it "
            "into the model's folder, which writes tokenizer.json",
        )
    said = "it has no tokenizer's files"
    if error is not None:
        said = f"its tokenizer cannot be read: {_line(error)}"
    return ModelError(
        f"model {spec.id!r}: {said}",
        do="put tokenizer.json and tokenizer_config.json of the model it comes from into the "
        "folder; AutoTokenizer.from_pretrained(...).save_pretrained(folder) does",
    )


def load_model(
    folder: Path, spec: ModelSpec, task: Task, labels: tuple[str, ...]
) -> PreTrainedModel:
    """The model in evaluation mode on the CPU, weights memory-mapped where its dtype allows.

    A head the folder does not hold is initialised for `labels` from a fixed seed.

    Raises ModelError.
    """
    options: dict[str, Any] = {"dtype": getattr(torch, spec.dtype)}
    if labels and "classification" in task:
        names = dict(enumerate(labels))
        options |= {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        options["problem_type"] = "single_label_classification"  # a config may tell of another
    head = head_for(task, is_encoder_decoder(folder, spec))
    torch.manual_seed(0)
    with _told(spec):
        model: PreTrainedModel = head.from_pretrained(
            folder, trust_remote_code=spec.trust_remote_code, **options
        )
    return model.eval()


def head_classes(config: PretrainedConfig, task: Task) -> tuple[str, ...]:
    """The classes of the head that the weights bring, in their order; () where they bring none.

    Classes without a name are called LABEL_0, LABEL_1, ... as transformers does.
    """
    made = " ".join(getattr(config, "architectures", None) or ())
    if "classification" not in task or not re.search(_HEADS, made):
        return ()
    names: dict[Any, str] = config.id2label
    return tuple(str(names[number]) for number in sorted(names, key=int))


def head_for(task: Task, encoder_decoder: bool) -> Any:
    """The class of transformers that loads a model for a task."""
    writes_on = task == "generation" and not encoder_decoder
    return AutoModelForCausalLM if writes_on else HEADS[task]


def is_encoder_decoder(folder: Path, spec: ModelSpec) -> bool:
    """Whether the model reads with one stack and writes with another."""
    return bool(getattr(load_config(folder, spec), "is_encoder_decoder", False))


@contextlib.contextmanager
def _told(spec: ModelSpec) -> Iterator[None]:
    """What transformers says in many ways, as one message."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of several libraries: torn weights, for one
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model {spec.id!r} brings Python code of its own",
                do="read it; to have that of the study's own model run, and of no other, set "
                "[model] trust_remote_code = true",
            ) from error
        raise ModelError(f"model {spec.id!r} cannot be loaded: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
