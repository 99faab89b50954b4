"""Workers that do items of work, each durably and once.

An item's result is one JSON file, written under a temporary name, flushed and renamed; an item
whose file is there is done. So work killed at any moment goes on where it was. What a worker is,
its maker says; it keeps what is dear to load between items.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from search.engine.dispatch import GIVEN_UP, Places
from search.engine.ray_session import ray_cluster
from search.study.schema import Resources
from trainables.core.cache import write_durably
from trainables.core.errors import UserError

ATTEMPTS = 3  # an item whose worker dies this often fails
DIED = "its worker died again and again (out of memory?)"
LOOK = 3.0  # seconds between two looks at the cluster
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
    """Does items of work."""

    workers: int  # at most, at a time

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        """Do all items; returns why those failed that did."""
        ...

    def call(self, method: str) -> Any:
        """What a method of a worker returns. Raises UserError where it fails."""
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

    def begin(self) -> None:
        """Nothing: who answers has a place."""

    def call(self, method: str) -> tuple[Any, str]:
        """(what a method returns, why it failed)."""
        try:
            return getattr(self._worker(), method)(), ""
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

    def call(self, method: str) -> Any:
        return _value(method, self.actor.call(method))


class RayPool:
    """Ray actors, as many as the cluster's nodes have room for: one that joins is used, and the
    work of one that goes is done by the others.

    Args:
        nodes: where workers can run, looked at again and again.
    """

    def __init__(self, make: MakeWorker, resources: Resources, nodes: Places, tell: Tell) -> None:
        self.make, self.resources, self.nodes, self.tell = make, resources, nodes, tell
        self.workers = resources.workers or max(1, nodes.slots())
        self.free: list[Any] = []
        self.starting: dict[Any, Any] = {}  # reference -> an actor that may have no place yet
        self.roomless = 0.0

    def run(self, items: Sequence[WorkItem]) -> dict[Path, str]:
        waiting = [item for item in items if not item.done]
        finished, attempts = len(items) - len(waiting), Counter[Path]()
        failed: dict[Path, str] = {}
        running: dict[Any, tuple[Any, WorkItem]] = {}  # reference -> (actor, item)
        while waiting or running:
            while waiting and self.free:
                item, actor = waiting.pop(0), self.free.pop()
                attempts[item.path] += 1
                running[actor.do.remote(item)] = (actor, item)
            for reference in self._ended(running):
                actor, item = running.pop(reference)
                why = self._outcome(reference, item)
                if why != DIED:
                    self.free.append(actor)
                elif attempts[item.path] < ATTEMPTS:
                    waiting.insert(0, item)
                    continue
                finished += 1
                failed |= {item.path: why} if why else {}
                self.tell(f"{item.path.parent.name}: {finished} of {len(items)}")
        return failed

    def call(self, method: str) -> Any:
        import ray

        while not self.free:
            self._ended({})
        try:
            return _value(method, ray.get(self.free[-1].call.remote(method)))
        except ray.exceptions.RayActorError:
            raise UserError(f"{method}: a worker died (out of memory?)") from None

    def _ended(self, running: Mapping[Any, Any]) -> list[Any]:
        """Who of those that run came to an end, after a while; who started meanwhile is free."""
        import ray

        self._grow(len(running))
        references = [*running, *self.starting]
        ended, _ = ray.wait(references, timeout=LOOK) if references else ([], None)
        for reference in [one for one in ended if one in self.starting]:
            actor = self.starting.pop(reference)
            with contextlib.suppress(ray.exceptions.RayActorError):  # its node went: another one
                ray.get(reference)
                self.free.append(actor)
        self._wait_for_room(bool(running or self.free))
        return [one for one in ended if one in running]

    def _grow(self, busy: int) -> None:
        """Start as many workers as there is room for."""
        for _ in range(busy + len(self.free) + len(self.starting), self.nodes.slots()):
            actor = self._actor()
            self.starting[actor.begin.remote()] = actor

    def _actor(self) -> Any:
        import ray

        wanted = self.resources
        return ray.remote(num_cpus=wanted.cpus, num_gpus=wanted.gpus)(PoolActor).remote(self.make)

    def _wait_for_room(self, found: bool) -> None:
        """Say once that no node has room for a worker, and after a while give up."""
        now = time.monotonic()
        if found:
            self.roomless = 0.0
            return
        if not self.roomless:
            self.roomless = now
            if not self.starting:
                self.tell(f"warning: {self.nodes.lack()}; waiting for one that can")
        if now > self.roomless + GIVEN_UP:
            raise self.nodes.lack()
        if not self.starting:
            time.sleep(LOOK)

    @staticmethod
    def _outcome(reference: Any, item: WorkItem) -> str:
        """Why the item failed, if it did."""
        import ray

        try:
            why = str(ray.get(reference))
        except ray.exceptions.RayActorError:
            return DIED
        return why if why or item.seen() else UNSEEN.format(item.path.parent)


def _value(method: str, answer: tuple[Any, str]) -> Any:
    value, why = answer
    if why:
        raise UserError(f"{method}: {why}")
    return value


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
        yield RayPool(make, resources, nodes, tell)


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
