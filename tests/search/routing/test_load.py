"""A routing study's file: mistakes are named before anything runs."""

from pathlib import Path

import pytest

from search.errors import StudyError
from search.routing.load import load_route
from tests.support.routing import write_study
from trainables.core.errors import UserError


def test_mistakes_in_the_file_are_named(made: Path, tmp_path: Path) -> None:
    file = write_study(made, tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text(file.read_text().replace("budget = 2", "budgets = 2"))
    with pytest.raises(StudyError, match="budgets"):
        load_route(broken)
    with pytest.raises(UserError, match="no such study file"):
        load_route(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["pudding-smollm2", "pudding-llama31-8b"])
def test_the_studies_that_come_along_are_valid(name: str) -> None:
    spec = load_route(Path(f"spaces/studies/{name}.toml"), {"sets.budget": 3})
    assert (spec.name, spec.sets.budget) == (f"{name}-k3", 3)
    assert len(spec.routed()) == 5


@pytest.mark.parametrize("name", ["cache", "mlartifacts", "mlflow.db"])
def test_a_name_beside_the_studies_is_refused(name: str, made: Path, tmp_path: Path) -> None:
    file = write_study(made, tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text(file.read_text().replace('name = "tiny"', f'name = "{name}"'))
    with pytest.raises(StudyError, match=f"name: got .{name}.*any name but"):
        load_route(broken)


def test_places_that_are_not_there_are_named_at_once(made: Path, tmp_path: Path) -> None:
    file = write_study(made, tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text(file.read_text().replace(str(made), str(made / "gone")))
    with pytest.raises(StudyError) as caught:
        load_route(broken, {"folder": "postgresql://me@host/db"})
    for key in ("folder", "model.id", "router.encoder", "tasks.sums.dataset"):
        assert key in str(caught.value)


def test_a_study_of_another_kind_keeps_its_folder(made: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "study.toml").write_text("")
    with pytest.raises(StudyError, match="rename one"):
        load_route(write_study(made, tmp_path))
