"""What tests of exports share: a search that ran, and a proof that is only asked for."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch

from search.study.load import parse_study
from tests.support.journals import Sample
from tests.support.searched import search_tiny
from trainables.bench.models.verify import Proof


@pytest.fixture(scope="session")
def tiny_searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small search, to be copied."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")
        search_tiny(folder)
    return folder


@pytest.fixture
def tiny(tiny_searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sample]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    shutil.copytree(tiny_searched / "runs", tmp_path / "runs")
    text = (tmp_path / "runs" / "tiny" / "study.toml").read_text()
    made = Sample(tmp_path / "runs", parse_study(text, "tiny.toml"))
    yield made
    made.close()


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The proof takes a fresh process seconds; here it is only asked for."""
    asked: list[str] = []

    def prove(load: str, folder: object, model: torch.nn.Module, *_: object) -> Proof:
        asked.append(load)
        parameters = float(sum(one.numel() for one in model.parameters()))
        times = {"latency_ms": 2.0, "fast_ms": 1.0, "slow_ms": 3.0}
        return Proof(True, 0.0, {"parameters": parameters, "memory": 2 * parameters, **times})

    monkeypatch.setattr("trainables.bench.models.verify.prove", prove)
    return asked
