"""Set before anything else is imported: quiet, offline, one thread, shapes checked."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MPLBACKEND"] = "agg"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (else other tests starve the workers)

from jaxtyping import install_import_hook

# The modules of pure tensor functions: every call's shapes and types are checked.
CHECKED = [
    "trainables.bench.models.packed.bits",
    "trainables.bench.models.packed.weights",
    "trainables.codebook",
    "trainables.wanda",
    "trainables.ilm.compare",
    "trainables.ilm.effects",
    "trainables.neurons.scores",
    "trainables.neurons.select",
    "trainables.omission.evaluator",
    "trainables.omission.importance",
    "trainables.omission.losses",
    "trainables.omission.method",
    "trainables.omission.searches",
    "trainables.routing.routed_model",
    "trainables.routing.router",
    "trainables.similarity.cka",
]
install_import_hook(CHECKED, "beartype.beartype")

import pytest
import torch
from transformers.utils import logging as transformers_logging

torch.set_num_threads(1)
transformers_logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test writes to the user's folders or is steered by the user's environment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """What several tests share is the same whichever of them comes first."""
    if fixturedef.scope != "function":
        torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tests come first, shared out over the processes that run tests, each of which begins
    with a run of the list: none of them is left over for the end."""
    left = int(getattr(config, "workerinput", {}).get("workercount", 1))
    found = [one for one in items if one.get_closest_marker("long")]
    rest = [one for one in items if not one.get_closest_marker("long")]
    items.clear()
    while left:
        mine = found[::left]
        size = (len(found) + len(rest)) // left - len(mine)
        items += [*mine, *rest[:size]]
        found, rest = [one for one in found if one not in mine], rest[size:]
        left -= 1
