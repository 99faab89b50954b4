"""Workers that do the items of a routing study, each item durably and once.

An item's result is one JSON file, written under a temporary name, flushed and renamed; an item
whose file is there is done. So a study killed at any moment goes on where it was.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from search.engine.ray_session import ray_cluster
from search.study.schema import Resources
from trainables.core.cache import write_durably
from trainables.core.errors import UserError
from trainables.routing.spec import RouteSpec

ATTEMPTS = 3  # an item whose worker dies this often fails
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class WorkItem:
    """A call of a `RouteWork` method, and where its result goes."""

    path: Path
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.path.exists()

    def result(self) -> Any:
        """What the method returned."""
        return json.loads(self.path.read_text())

    def run(self, work: object) -> None:
        """Do it, here."""
        value = getattr(work, self.method)(**self.arguments)
        write_durably(self.path, json.dumps(value))


class Pool(Protocol):
    """Does items; calls methods of all workers at once."""

    workers: int

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        """Do all items; returns why those failed that did."""
        ...

    def call(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        """One call per worker, side by side."""
        ...


@dataclass
class LocalPool:
    """All in this process, one after the other: for tests, and machines without room for Ray."""

    spec: RouteSpec
    tell: Tell = lambda text: None
    workers: int = 1
    work: Any = None

    def _worker(self) -> Any:
        if self.work is None:
            from trainables.routing.worker import RouteWork

            self.work = RouteWork(self.spec)
        return self.work

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        failed = {}
        for number, item in enumerate(items, 1):
            if not item.done:
                try:
                    item.run(self._worker())
                except Exception as error:  # one bad item never ends a study
                    failed[item.path] = reason(error)
                self.tell(f"{item.path.parent.name}: {number} of {len(items)}")
        return failed

    def call(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [getattr(self._worker(), method)(**given) for given in arguments]


class RayPool:
    """One Ray actor per worker, each with its own warm model."""

    def __init__(self, spec: RouteSpec, workers: int, tell: Tell) -> None:
        self.spec, self.workers, self.tell = spec, workers, tell
        self.actors = [self._actor() for _ in range(workers)]

    def _actor(self) -> Any:
        import ray

        wanted = self.spec.resources
        remote = ray.remote(num_cpus=wanted.cpus, num_gpus=wanted.gpus)(PoolActor)
        return remote.remote(self.spec)

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        import ray

        todo = [item for item in items if not item.done]
        finished, attempts = len(items) - len(todo), dict.fromkeys(range(len(todo)), 0)
        waiting = list(range(len(todo)))
        failed: dict[Path, str] = {}
        running: dict[Any, tuple[int, int]] = {}  # reference -> (actor, item)
        idle = list(range(len(self.actors)))
        while waiting or running:
            while waiting and idle:
                number, actor = waiting.pop(0), idle.pop(0)
                attempts[number] += 1
                running[self.actors[actor].do.remote(todo[number])] = (actor, number)
            [reference], _ = ray.wait(list(running), num_returns=1)
            actor, number = running.pop(reference)
            why = self._outcome(reference, actor)
            if why == DIED and attempts[number] < ATTEMPTS:
                waiting.insert(0, number)
            else:
                finished += 1
                failed |= {todo[number].path: why} if why else {}
                self.tell(f"{todo[number].path.parent.name}: {finished} of {len(items)}")
            idle.append(actor)
        return failed

    def _outcome(self, reference: Any, actor: int) -> str:
        """Why the item failed, if it did; a dead worker is replaced."""
        import ray

        try:
            return str(ray.get(reference))
        except ray.exceptions.RayActorError:
            self.actors[actor] = self._actor()
            return DIED

    def call(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        import ray

        actors = zip(self.actors, arguments, strict=False)
        found: list[Any] = ray.get([actor.call.remote(method, dict(one)) for actor, one in actors])
        return found


DIED = "its worker died again and again (out of memory?)"


class PoolActor:
    """What a Ray actor does."""

    def __init__(self, spec: RouteSpec) -> None:
        from trainables.routing.worker import RouteWork

        self.work = RouteWork(spec)

    def do(self, item: WorkItem) -> str:
        """Do an item; returns why it failed, or nothing."""
        try:
            item.run(self.work)
        except Exception as error:  # one bad item never ends a study
            return reason(error)
        return ""

    def call(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call a method."""
        return getattr(self.work, method)(**arguments)


def reason(error: Exception) -> str:
    """One line for the user."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextlib.contextmanager
def open_pool(spec: RouteSpec, tell: Tell) -> Iterator[Pool]:
    """The study's workers."""
    wanted = spec.resources
    if wanted.workers == 0:
        yield LocalPool(spec, tell)
        return
    resources = Resources(cpus=wanted.cpus, gpus=wanted.gpus, workers=wanted.workers)
    with ray_cluster(resources, tell) as fits:
        yield RayPool(spec, fits, tell)


def finish(pool: Pool, items: Sequence[WorkItem]) -> None:
    """Do all items.

    Raises:
        UserError: some failed; the others are kept, and the next run tries only those again.
    """
    failed = pool.run(items)
    if failed:
        lines = [f"{path.stem}: {why}" for path, why in failed.items()]
        raise UserError(
            f"{len(failed)} of {len(items)} items failed:\n  " + "\n  ".join(lines[:10]),
            do="run the same command again: what is done stays done",
        )
