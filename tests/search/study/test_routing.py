"""A routing study's file: mistakes are named before anything runs."""

from pathlib import Path

import pytest

from search.errors import StudyError
from search.study.load import study_toml
from search.study.routing import load_route, parse_either
from tests.support.routing import write_study
from trainables.core.errors import UserError


def test_mistakes_in_the_file_are_named(made: Path, tmp_path: Path) -> None:
    file = write_study(made, tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text(file.read_text().replace("budget = 2", "budgets = 2"))
    with pytest.raises(StudyError, match="budgets"):
        load_route(broken)
    for before, after, told in (
        ("workers = 0", "gpus = 1.5", r"resources.gpus: got 1.5.*a whole number of GPUs"),
        ("seed = 1", "seed = -1", "seed: got -1; allowed: 0 or more"),
        ('name = "tiny"', 'name = "a/b"', "name: got .a/b.*up to 64 letters"),
    ):
        broken.write_text(file.read_text().replace(before, after, 1))
        with pytest.raises(StudyError, match=told):
            load_route(broken)
    with pytest.raises(UserError, match="no such study file"):
        load_route(tmp_path / "none.toml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.mark.parametrize("name", ["pudding-smollm2", "pudding-llama31-8b"])
def test_the_studies_that_come_along_are_valid(name: str) -> None:
    spec = load_route(Path(f"spaces/studies/{name}.toml"))
    assert spec.name == name and len(spec.routed()) == 5
    one = load_route(Path(f"spaces/studies/{name}.toml"), {"sets.budget": 3})
    assert one.sets.budget == (3,), "a single number of blocks is a list of one"


def test_what_is_saved_of_it_is_read_as_the_same_study(made: Path, tmp_path: Path) -> None:
    text = write_study(made, tmp_path).read_text()
    study = parse_either(text, "file")
    assert study.route is not None and list(study.objectives) == ["accuracy", "active_parameters"]
    assert parse_either(study_toml(study), "saved") == study
    moved = parse_either(study_toml(study), "saved", {"storage.folder": str(tmp_path / "moved")})
    assert moved.route is not None and moved.route.folder == str(tmp_path / "moved")
    with pytest.raises(UserError, match=r'got "budget.trials"'):
        parse_either(text, "file", {"budget.trials": 3})


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
