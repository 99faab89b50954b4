"""A routing worker's data: tasks of one data set share no row."""

from pathlib import Path
from typing import get_args

import pytest

from tests.support.routing import study
from trainables.core.spec import ItemCounts, Role
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
