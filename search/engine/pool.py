"""Workers that do items of work, each durably and once.

An item's result is one JSON file, written under a temporary name, flushed and renamed; an item
whose file is there is done. So work killed at any moment goes on where it was. What a worker is,
its maker says; it keeps what is dear to load between items.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from search.engine.ray_session import ray_cluster
from search.study.schema import Resources
from trainables.core.cache import write_durably
from trainables.core.errors import UserError

ATTEMPTS = 3  # an item whose worker dies this often fails
DIED = "its worker died again and again (out of memory?)"
UNSEEN = "done on a node that does not see the results' folder {}: all of them have to"
Tell: TypeAlias = Callable[[str], None]
MakeWorker: TypeAlias = Callable[[], object]  # pickled, called in the worker's process


@dataclass(frozen=True)
class WorkItem:
    """A call of a worker's method, and where its result goes."""

    path: Path
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.path.exists()

    def seen(self) -> bool:
        """Whether its file is here once it was done; a network file system may take a moment."""
        for pause in (0.5, 1.5, 3.0, 0.0):
            if self.done:
                return True
            time.sleep(pause)
        return False

    def result(self) -> Any:
        """What the method returned."""
        return json.loads(self.path.read_text())

    def run(self, worker: object) -> None:
        """Do it, here."""
        value = getattr(worker, self.method)(**self.arguments)
        write_durably(self.path, json.dumps(value))


class Pool(Protocol):
    """Does items; calls methods of all workers at once."""

    workers: int

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        """Do all items; returns why those failed that did."""
        ...

    def call(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        """One call per worker, side by side. Raises UserError where one fails."""
        ...


class PoolActor:
    """One worker: made when first needed, so that what its making says is the item's reason."""

    def __init__(self, make: MakeWorker) -> None:
        self.make = make
        self.worker: object = None

    def do(self, item: WorkItem) -> str:
        """Do an item; returns why it failed, or nothing."""
        try:
            item.run(self._worker())
        except Exception as error:  # one bad item never ends a study
            return reason(error)
        return ""

    def call(self, method: str, arguments: Mapping[str, Any]) -> tuple[Any, str]:
        """(what a method returns, why it failed)."""
        try:
            return getattr(self._worker(), method)(**arguments), ""
        except Exception as error:  # Ray would wrap it in its own traceback
            return None, reason(error)

    def _worker(self) -> object:
        if self.worker is None:
            self.worker = self.make()
        return self.worker


class LocalPool:
    """All in this process, one after the other: for tests, and machines without room for Ray."""

    def __init__(self, make: MakeWorker, tell: Tell = lambda text: None, workers: int = 1) -> None:
        self.actor, self.tell, self.workers = PoolActor(make), tell, workers

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        failed: dict[Path, str] = {}
        for number, item in enumerate(items, 1):
            if not item.done:
                why = self.actor.do(item)
                failed |= {item.path: why} if why else {}
                self.tell(f"{item.path.parent.name}: {number} of {len(items)}")
        return failed

    def call(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        return _values(method, [self.actor.call(method, given) for given in arguments])


class RayPool:
    """One Ray actor per worker."""

    def __init__(self, make: MakeWorker, resources: Resources, workers: int, tell: Tell) -> None:
        self.make, self.resources, self.workers, self.tell = make, resources, workers, tell
        self.actors = [self._actor() for _ in range(workers)]

    def _actor(self) -> Any:
        import ray

        wanted = self.resources
        remote = ray.remote(num_cpus=wanted.cpus, num_gpus=wanted.gpus)(PoolActor)
        return remote.remote(self.make)

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
            why = self._outcome(reference, actor, todo[number])
            if why == DIED and attempts[number] < ATTEMPTS:
                waiting.insert(0, number)
            else:
                finished += 1
                failed |= {todo[number].path: why} if why else {}
                self.tell(f"{todo[number].path.parent.name}: {finished} of {len(items)}")
            idle.append(actor)
        return failed

    def _outcome(self, reference: Any, actor: int, item: WorkItem) -> str:
        """Why the item failed, if it did; a dead worker is replaced."""
        import ray

        try:
            why = str(ray.get(reference))
        except ray.exceptions.RayActorError:
            self.actors[actor] = self._actor()
            return DIED
        return why if why or item.seen() else UNSEEN.format(item.path.parent)

    def call(self, method: str, arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        import ray

        actors = zip(self.actors, arguments, strict=False)
        asked = [actor.call.remote(method, dict(given)) for actor, given in actors]
        try:
            return _values(method, ray.get(asked))
        except ray.exceptions.RayActorError:
            raise UserError(f"{method}: a worker died (out of memory?)") from None


def _values(method: str, answers: Sequence[tuple[Any, str]]) -> list[Any]:
    for _, why in answers:
        if why:
            raise UserError(f"{method}: {why}")
    return [value for value, _ in answers]


def reason(error: Exception) -> str:
    """One line for the user."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{error}".splitlines()[0]


@contextlib.contextmanager
def open_pool(
    make: MakeWorker, resources: Resources | None, tell: Tell = lambda text: None
) -> Iterator[Pool]:
    """Workers, each with the resources; None: all in this process, without Ray."""
    if resources is None:
        yield LocalPool(make, tell)
        return
    with ray_cluster(resources, tell) as nodes:
        yield RayPool(make, resources, nodes.enough(), tell)


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
