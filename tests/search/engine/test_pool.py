"""Workers of any kind doing durable items of work."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from search.engine import pool as pools
from search.engine.pool import LocalPool, PoolActor, RayPool, WorkItem, finish
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

    def begin_with(self) -> int:
        return self.start

    def refuse(self) -> int:
        return self.add(-1)


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


class Call:
    """A call of an actor, as Ray has it: done once it is asked for, where the actor has a place."""

    def __init__(self, actor: "Actor", name: str, work: Callable[[], Any]) -> None:
        self.actor, self.name, self.work = actor, name, work

    def get(self) -> Any:
        if self.name == "do" and self.actor.cluster.dying:
            self.actor.cluster.dying -= 1
            self.actor.lives = False
        if not self.actor.lives:
            raise ray.exceptions.RayActorError
        return self.work()


class Actor:
    """Its methods are calls."""

    def __init__(self, cluster: "Cluster", actor: PoolActor) -> None:
        self.cluster, self.actor, self.lives = cluster, actor, True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        return SimpleNamespace(remote=lambda *args: Call(self, name, partial(method, *args)))


class Cluster:
    """As much of Ray as a pool needs. `room` grows by one with every look, up to `most`."""

    def __init__(self, most: int, room: int = 1) -> None:
        self.room, self.most, self.dying = room, most, 0
        self.made: list[Actor] = []
        self.busiest = 0

    def remote(self, **needs: float) -> Callable[[type], Any]:
        def made(make: Callable[[], object]) -> Actor:
            self.made.append(Actor(self, PoolActor(make)))
            return self.made[-1]

        return lambda kind: SimpleNamespace(remote=made)

    def wait(self, calls: Sequence[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        lives = [one for one in self.made if one.lives][: self.room]
        placed = [one for one in calls if one.actor in lives or not one.actor.lives]
        self.busiest = max(self.busiest, len(placed))
        self.room = min(self.most, self.room + 1)
        return placed[:1], [one for one in calls if one not in placed[:1]]

    def slots(self) -> int:
        return self.room

    def lack(self) -> UserError:
        return UserError("no room")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    found = Cluster(most=3)
    for name in ("remote", "wait"):
        monkeypatch.setattr(ray, name, getattr(found, name))
    monkeypatch.setattr(ray, "get", lambda call: call.get())
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield found


def on(cluster: Any, told: list[str] | None = None) -> RayPool:
    tell = [].append if told is None else told.append
    return RayPool(partial(Adder, 10), Resources(workers=3), cluster, tell)


def test_nodes_that_join_are_used(cluster: Cluster, tmp_path: Path) -> None:
    work = items(tmp_path, *range(12))
    finish(on(cluster), work)
    assert [item.result() for item in work] == [10 + value for value in range(12)]
    assert len(cluster.made) == 3 and cluster.busiest == 3


def test_the_work_of_a_worker_that_goes_is_done_by_others(cluster: Cluster, tmp_path: Path) -> None:
    pool, work = on(cluster), items(tmp_path, *range(6))
    assert pool.call("begin_with") == 10
    cluster.dying = 2
    finish(pool, work)
    assert all(item.done for item in work)
    cluster.dying = pools.ATTEMPTS
    with pytest.raises(UserError, match=pools.DIED.split("(")[0]):
        finish(pool, items(tmp_path, 99))


def test_a_head_without_room_is_said_and_waited_for(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    cluster.room, left = 0, iter(range(3))
    monkeypatch.setattr(cluster, "slots", lambda: 0 if next(left, None) is not None else 1)
    pool = on(cluster, told)
    assert pool.workers == 3
    cluster.room = 1
    finish(pool, items(tmp_path, 1))
    assert told.count("warning: no room; waiting for one that can") == 1
    monkeypatch.setattr(pools, "GIVEN_UP", -1.0)
    monkeypatch.setattr(cluster, "slots", lambda: 0)
    with pytest.raises(UserError, match="no room"):
        on(cluster).call("begin_with")


def test_a_result_that_the_driver_does_not_see_is_told(cluster: Cluster, tmp_path: Path) -> None:
    [item] = items(tmp_path, 1)
    done = SimpleNamespace(get=lambda: "")
    assert f"does not see the results' folder {tmp_path}" in RayPool._outcome(done, item)
    item.run(Adder(10))
    assert RayPool._outcome(done, item) == ""


def test_a_worker_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    pool = LocalPool(partial(int, "many"))
    assert "invalid literal" in next(iter(pool.run(items(tmp_path, 1)).values()))
    with pytest.raises(UserError, match="add: ValueError: invalid literal"):
        pool.call("add")


def test_what_a_worker_says() -> None:
    assert LocalPool(partial(Adder, 10)).call("begin_with") == 10
    with pytest.raises(UserError, match="refuse: value: got -1"):
        LocalPool(partial(Adder, 10)).call("refuse")
