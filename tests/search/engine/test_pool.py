"""Workers of any kind doing durable items of work."""

from functools import partial
from pathlib import Path

import pytest

from search.engine.pool import LocalPool, RayPool, WorkItem, finish
from search.study.schema import Resources
from trainables.core.errors import PlanError, UserError


class Adder:
    """A worker: what is dear to make is made once."""

    made = 0

    def __init__(self, start: int) -> None:
        Adder.made += 1
        self.start = start

    def add(self, value: int) -> int:
        if value < 0:
            raise PlanError("value", got=value, allowed="0 or more")
        return self.start + value


def items(folder: Path, *values: int) -> list[WorkItem]:
    return [WorkItem(folder / f"{value}.json", "add", {"value": value}) for value in values]


def test_items_are_done_once_by_one_worker(tmp_path: Path) -> None:
    before, pool = Adder.made, LocalPool(partial(Adder, 10))
    assert pool.run([]) == {} and Adder.made == before, "made when first needed"
    work = items(tmp_path, 1, 2)
    finish(pool, work)
    assert [item.result() for item in work] == [11, 12]
    finish(LocalPool(partial(Adder, 99)), [*work, *items(tmp_path, 3)])
    assert [item.result() for item in (*work, *items(tmp_path, 3))] == [11, 12, 102]
    assert Adder.made == before + 2


def test_the_failed_are_named_and_the_others_kept(tmp_path: Path) -> None:
    work = items(tmp_path, 1, -1, 2)
    with pytest.raises(UserError, match=r"1 of 3 items failed:\n  -1: value: got -1; allowed: 0"):
        finish(LocalPool(partial(Adder, 10)), work)
    assert [item.done for item in work] == [True, False, True]


def test_a_result_that_the_driver_does_not_see_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("ray.get", lambda reference: "")
    pool = RayPool(partial(Adder, 10), Resources(), 0, lambda text: None)
    [item] = items(tmp_path, 1)
    assert f"does not see the results' folder {tmp_path}" in pool._outcome(None, 0, item)
    item.run(Adder(10))
    assert pool._outcome(None, 0, item) == ""


def test_a_worker_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    pool = LocalPool(partial(int, "many"))
    assert "invalid literal" in next(iter(pool.run(items(tmp_path, 1)).values()))
    with pytest.raises(UserError, match="add: ValueError: invalid literal"):
        pool.call("add", [{"value": 1}])


def test_all_workers_are_called_side_by_side() -> None:
    pool = LocalPool(partial(Adder, 10), workers=2)
    assert pool.call("add", [{"value": 1}, {"value": 2}]) == [11, 12]
    with pytest.raises(UserError, match="add: value: got -1"):
        pool.call("add", [{"value": 1}, {"value": -1}])
