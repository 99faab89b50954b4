"""A tiny routing study, made and run once for all tests of this room."""

from pathlib import Path

import pytest

from search.routing.stages import Route
from tests.support.routing import ran, study


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="session")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Route:
    """A study that ran without interruption."""
    return ran(study(made, tmp_path_factory.mktemp("whole")))
