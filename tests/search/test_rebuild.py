"""Where a study's trials are rebuilt: on the GPUs of the study, as far as there are any here."""

from pathlib import Path
from typing import Any

import pytest

from search import rebuild
from search.routing import export
from search.study.schema import Resources
from tests.support.journals import Sample
from tests.support.routing import study as routing_study


@pytest.mark.parametrize(
    ("gpus", "here", "found"),
    [
        (0, 2, ("cpu", 1)),
        (0.5, 0, ("cpu", 1)),
        (1, 1, ("cuda", 1)),
        (2, 0, ("cpu", 1)),
        (2, 1, ("cuda", 1)),
        (2, 4, ("cuda", 2)),
    ],
)
def test_a_bench_opens_on_as_many_cards_as_there_are(
    gpus: float,
    here: int,
    found: tuple[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(rebuild, "gpu_count", lambda: here)
    monkeypatch.setattr("trainables.trial.open_bench", opened.append)
    sample = Sample(tmp_path)
    study = sample.study.model_copy(update={"resources": Resources(gpus=gpus)})
    rebuild.bench_of(study, tmp_path / "cache")
    assert (opened[0].device, opened[0].cards) == found
    sample.close()


def test_a_routed_model_is_exported_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = routing_study(tmp_path, tmp_path)
    wanted = spec.model_copy(
        update={"resources": spec.resources.model_copy(update={"gpus": 1.0, "workers": 3})}
    )
    for here, given in ((0, 0), (4, 1.0)):
        monkeypatch.setattr(export, "gpu_count", lambda here=here: here)
        assert export._here(wanted).resources.gpus == given
        assert export._here(wanted).resources.workers == 3
