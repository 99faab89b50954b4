"""Of a repository's files those are fetched that a model needs; the hub itself is made up."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from trainables.bench.models.hub import download, wanted
from trainables.core.errors import ModelError
from trainables.core.spec import ModelSpec

BESIDE = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
COPIES = [
    "original/consolidated.00.pth",
    "original/params.json",
    "consolidated.safetensors",
    "consolidated.00.pth",
    "onnx/model.onnx",
    "flax_model.msgpack",
    "tf_model.h5",
    "README.md",
    ".gitattributes",
    "training_args.bin",
    "optimizer.pt",
]
SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
BINARY_SHARDS = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (
            [*SHARDS, "model.safetensors.index.json", "pytorch_model.bin"],
            [*SHARDS, "model.safetensors.index.json"],
        ),
        (
            [*BINARY_SHARDS, "pytorch_model.bin.index.json"],
            [*BINARY_SHARDS, "pytorch_model.bin.index.json"],
        ),
        (["model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
    ],
)
def test_one_form_of_the_weights_and_no_copies(there: list[str], weights: list[str]) -> None:
    assert wanted([*there, *BESIDE, *COPIES]) == sorted([*weights, *BESIDE])


def test_a_models_own_code_only_where_it_may_run() -> None:
    files = ["model.safetensors", "config.json", "modeling_mine.py", "parts/more.py"]
    assert wanted(files) == ["config.json", "model.safetensors"]
    assert wanted(files, code=True) == sorted(files)


def test_without_weights_nothing_is_wanted() -> None:
    assert wanted([*BESIDE, *COPIES]) == []


class Hub:
    """Stands for the hub: what it lists, and what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: list[str] | Exception) -> None:
        self.files, self.asked, self.cached = files, [{}], True
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", self.listing)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.fetch)
        self.asked.clear()

    def listing(self, repo: str, revision: str | None = None) -> list[str]:
        if isinstance(self.files, Exception):
            raise self.files
        return self.files

    def fetch(self, repo: str, **options: Any) -> str:
        self.asked.append(options)
        if not self.cached:
            raise FileNotFoundError("not here")
        return "/somewhere"


def test_what_is_wanted_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, ["pytorch_model.bin", "config.json", *COPIES])
    assert download(ModelSpec(id="a/b", revision="v1")) == Path("/somewhere")
    assert hub.asked == [{"revision": "v1", "allow_patterns": ["config.json", "pytorch_model.bin"]}]


def test_a_repository_without_weights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, ["config.json", "model.gguf"])
    with pytest.raises(ModelError, match=r"a/b.*no weights.*it holds config\.json, model\.gguf"):
        download(ModelSpec(id="a/b"))


def test_out_of_reach_what_was_fetched_before_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, ConnectionError("no network\nat all"))
    assert download(ModelSpec(id="a/b")) == Path("/somewhere")
    assert hub.asked == [{"revision": None, "local_files_only": True}]
    hub.cached = False
    with pytest.raises(ModelError, match=r"a/b.*ConnectionError: no network; give a folder"):
        download(ModelSpec(id="a/b"))
