"""Fetching a model from the hub: what it needs and nothing else.

Repositories hold the weights in several formats, and whole copies for other tools (`original/`,
`onnx/`, `consolidated.*`): one format is fetched, from the root folder.
"""

import re
from collections.abc import Collection
from pathlib import Path

from trainables.core.errors import ModelError
from trainables.core.spec import ModelSpec

# What transformers looks for, in its order; the first that is there is taken.
_WEIGHTS = (
    r"model\.safetensors",
    r"model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors",
    r"pytorch_model\.bin",
    r"pytorch_model\.bin\.index\.json|pytorch_model-\d+-of-\d+\.bin",
)
_BESIDE = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".codes", ".bpe")


def wanted(files: Collection[str], *, code: bool = False) -> list[str]:
    """Of a repository's files those that a model needs; none where it has no weights.

    Args:
        code: its Python files too.
    """
    root = [name for name in files if "/" not in name]
    weights = next(filter(None, ([n for n in root if re.fullmatch(p, n)] for p in _WEIGHTS)), [])
    beside = [n for n in root if n.endswith(_BESIDE) and not n.endswith(".index.json")]
    source = [name for name in files if code and name.endswith(".py")]
    return sorted({*weights, *beside, *source}) if weights else []


def download(spec: ModelSpec) -> Path:
    """The local folder of a hub id; fetched once, and taken as it is where the hub is out of reach.

    Raises ModelError.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(spec.id, revision=spec.revision)
    except Exception as error:  # the hub raises many kinds; the user needs one message
        return _fetched_before(spec, error)
    names = wanted(files, code=spec.trust_remote_code)
    if not names:
        there = ", ".join(sorted(files)[:8]) or "nothing"
        raise ModelError(
            f"model {spec.id!r} on the hub has no weights that transformers reads",
            allowed="model.safetensors or pytorch_model.bin, whole or in parts",
            do=f"it holds {there}",
        )
    try:
        return Path(snapshot_download(spec.id, revision=spec.revision, allow_patterns=names))
    except Exception as error:
        raise _unreached(spec, error) from error


def _fetched_before(spec: ModelSpec, error: Exception) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec.id, revision=spec.revision, local_files_only=True))
    except Exception:
        raise _unreached(spec, error) from error


def _unreached(spec: ModelSpec, error: Exception) -> ModelError:
    said = (str(error).splitlines() or ["no message"])[0]
    return ModelError(
        f"model {spec.id!r}: not a local folder, and the hub says {type(error).__name__}: {said}",
        do="give a folder, a hub id you can reach, or asset:NAME",
    )


def fetch_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """One file of a hub id, fetched once; None where the repository does not have it.

    Raises ModelError where the hub is out of reach and the file was not fetched before.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError as error:
        if file.endswith(".index.json"):  # most models have none: then one file has everything
            return None
        raise _unreached(ModelSpec(id=name), error) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub raises many kinds
        raise _unreached(ModelSpec(id=name), error) from error
