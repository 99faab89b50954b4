"""What travels to the nodes: our packages, a user's modules, and nothing else of the clone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.engine.shipping import OURS, shipment, users_modules
from tests.support.journals import sample_study


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a space in a file, a package of metrics, a large result beside them."""
    folder = tmp_path / "project"
    (folder / "my_scores").mkdir(parents=True)
    (folder / "my_space.py").write_text("import my_method\n\n\ndef space(trial, facts): ...\n")
    (folder / "my_method.py").write_text("STEP = 3\n")
    (folder / "other.py").write_text("")
    (folder / "my_scores" / "__init__.py").write_text("")
    (folder / "my_scores" / "tone.py").write_text("from my_scores import words\n")
    (folder / "my_scores" / "words.py").write_text("")
    (folder / "my_scores" / "words.json").write_text("[]")
    (folder / "model.bin").write_bytes(bytes(1000))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_our_packages_travel_and_nothing_else_of_the_clone() -> None:
    with shipment() as root:
        assert {path.name for path in root.iterdir()} == set(OURS)
        assert "search/report/page.html" in files(root)
        assert not [name for name in files(root) if "__pycache__" in name]
    assert not root.exists()


def test_a_users_modules_travel_with_what_they_import(project: Path) -> None:
    with shipment(["my_space", "my_scores.tone"]) as root:
        ours = {name for name in files(root) if name.partition("/")[0] not in OURS}
        assert ours == {
            "my_space.py",
            "my_method.py",
            "my_scores/__init__.py",
            "my_scores/tone.py",
            "my_scores/words.py",
            "my_scores/words.json",
        }
        environment = {**os.environ, "PYTHONPATH": str(root)}
        code = "import my_space, my_scores.tone, search.launch, os; print(my_space.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=project.parent,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == str(root / "my_space.py"), done.stderr


def test_the_modules_of_a_study_are_those_it_names() -> None:
    study = sample_study(
        metrics={"tone": "my_scores.tone:score"},
        space=sample_study().space.model_copy(update={"name": "my_space:space"}),
        sampler=sample_study().sampler.model_copy(update={"name": "my_sampler:make"}),
    )
    assert users_modules(study) == ["my_sampler", "my_scores.tone", "my_space"]
    assert users_modules(sample_study()) == []


def test_our_own_modules_are_no_users_modules() -> None:
    ours = sample_study().sampler.model_copy(update={"name": "search.samplers.level_switch:make"})
    assert users_modules(sample_study(sampler=ours)) == []
