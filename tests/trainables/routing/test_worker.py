"""A routing worker: what its pieces are named after, and tasks of one data set share no row."""

from pathlib import Path
from typing import get_args

import pytest
from safetensors.torch import load_file, save_file

from tests.support.routing import answers, study
from trainables.core.cache import Cache
from trainables.core.errors import DataError
from trainables.core.spec import ItemCounts, Role
from trainables.routing import router
from trainables.routing.worker import RouteWork

ROLES: tuple[Role, ...] = get_args(Role)


@pytest.mark.parametrize("first", ["colours", "again"])
def test_two_tasks_of_one_data_set_share_no_row(tmp_path: Path, first: str) -> None:
    spec = study(tmp_path / "made", tmp_path / "runs")
    one = spec.tasks["colours"].model_copy(
        update={"items": ItemCounts(calibration=4, train=8, search=1, held_out=6)}
    )
    other = one.model_copy(
        update={"items": ItemCounts(calibration=2, train=6, search=1, held_out=9)}
    )
    tasks = {**spec.tasks, "colours": one, "again": other}
    work = RouteWork(spec.model_copy(update={"tasks": tasks}))
    work.data(first)  # whichever is asked for first
    prompts = {
        task: {item.prompt for role in ROLES for item in work.items(task, role)}
        for task in ("colours", "again")
    }
    assert len(prompts["colours"]) == 19 and len(prompts["again"]) == 18
    assert not prompts["colours"] & prompts["again"]


@pytest.mark.parametrize("part", ["model", "encoders", "tasks"])
def test_what_changes_in_its_place_has_another_name(tmp_path: Path, part: str) -> None:
    made = tmp_path / "made"
    spec = study(made, tmp_path / "runs")
    before = RouteWork(spec).identity()
    if part == "tasks":
        file = made / "sums.jsonl"
        file.write_text(file.read_text().replace("+ 1", "+ one"))
    else:
        weights = made / part.removesuffix("s") / "model.safetensors"
        changed = {name: value * 1.5 for name, value in load_file(weights).items()}
        save_file(changed, weights, metadata={"format": "pt"})
    after = RouteWork(spec).identity()
    assert [name for name in before if before[name] != after[name]] == [part]
    assert RouteWork(spec).identity() == after


@pytest.mark.parametrize("part", ["code", "transformers.__version__"])
def test_other_code_and_another_library_make_other_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    spec = study(tmp_path / "made", tmp_path / "runs")
    taught, cache = answers("ab", [(1, 0), (0, 1)]), Cache(tmp_path / "cache")

    def names() -> tuple[str, str]:
        work = RouteWork(spec)  # another process's
        return work.lineage, router._identity(spec.router, taught, cache, "cpu")

    before = names()
    assert names() == before
    if part == "code":
        monkeypatch.setattr("trainables.routing.worker.code", lambda: "another")
        monkeypatch.setattr("trainables.routing.router.code", lambda: "another")
    else:
        monkeypatch.setattr(part, "0.0.1")
    assert not set(names()) & set(before)


def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path: Path) -> None:
    spec = study(tmp_path / "made", tmp_path / "runs")
    long = spec.tasks["sums"].model_copy(update={"max_length": 4096})
    work = RouteWork(spec.model_copy(update={"tasks": {"sums": long}}))
    with pytest.raises(DataError, match="max_length = 4096: the model has 2048 positions"):
        work.identity()
