"""The search over the router's settings, in the study's own storage."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.engine.pieces import Piece, Pieces, Program, do_here
from search.journal.fence import Driver
from search.journal.journal import Journal
from search.journal.store import Store, open_storage
from search.routing.routers import GOALS, Trained, search_router
from search.routing.stages import Route
from tests.support.routing import answers
from trainables.core.errors import PlanError, UserError
from trainables.routing.spec import RouteSpec

ITEMS = answers("aaaabbbb", [(1, 0), (0, 1)] * 4)


class Fake:
    """A worker whose routers are as good as their rate is high, until it is too high."""

    def __init__(self, worst: float) -> None:
        self.worst, self.ran = worst, list[float]()

    def do(self, method: str, arguments: dict[str, Any]) -> Any:
        yield from ()
        return getattr(self, method)(**arguments)

    def look(self) -> dict[str, Any]:
        return {}

    def train(self, settings: dict[str, Any]) -> dict[str, Any]:
        self.ran.append(settings["lr"])
        if settings["lr"] > self.worst:
            raise PlanError("the training loss is nan")
        metrics = {"accuracy": round(settings["lr"], 4), "regret": settings["epochs"]}
        stage = {"stage": "Router", "settings": settings, "counts": {}}
        return {"state": "complete", "metrics": metrics, "folder": "f", "stages": [stage]}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    yield opened(tmp_path)


def opened(folder: Path) -> Journal:
    return Journal(open_storage(Store(folder, "s"), create=True), "s/routers", GOALS, {}, Driver())


def search(whole: Route, journal: Journal, fake: Fake, folder: Path, told: Any = print) -> Trained:
    wanted = whole.spec.search.model_copy(update={"trials": 6})
    abreast = whole.spec.resources.model_copy(update={"workers": 2})
    spec: RouteSpec = whole.spec.model_copy(update={"search": wanted, "resources": abreast})
    found: list[Trained] = []

    def make(settings: Any) -> dict[str, Any]:
        return {"settings": settings.model_dump()}

    def program() -> Program[None]:
        results = folder / "s" / "results"
        yield [Piece(results / "look.json", "look")]  # the first one, on which all depends
        found.append((yield from search_router(spec, journal, results, ITEMS, make, told)))

    do_here(Pieces(folder / "s", program()), lambda: fake)
    return found[0]


def test_the_best_is_the_most_accurate_and_of_those_the_one_with_least_regret(
    whole: Route, journal: Journal, tmp_path: Path
) -> None:
    found = search(whole, journal, fake := Fake(1.0), tmp_path)
    assert fake.ran[0] == pytest.approx(whole.spec.router.lr), "the study's own settings come first"
    assert (found.tried, found.failed) == (6, 0)
    records = [row.user_attrs["record"] for row in journal.trials()]
    assert records[0]["stages"][0]["stage"] == "Static", "what no router has to be better than"
    order = [(-one["metrics"]["accuracy"], one["metrics"]["regret"]) for one in records[1:]]
    assert (-found.report["accuracy"], found.report["regret"]) == min(order)


def test_interrupted_anywhere_it_proposes_the_same(
    whole: Route, journal: Journal, tmp_path: Path
) -> None:
    search(whole, journal, wanted := Fake(1.0), tmp_path)
    for calls in (1, 3):
        place = tmp_path / str(calls)
        fake = Fake(1.0)
        train, left = fake.train, iter(range(calls))

        def stops(settings: dict[str, Any], go: Any = left, do: Any = train) -> dict[str, Any]:
            if next(go, None) is None:
                raise KeyboardInterrupt
            found: dict[str, Any] = do(settings)
            return found

        fake.train = stops  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            search(whole, opened(place), fake, place)
        again = Fake(1.0)
        search(whole, opened(place), again, place)
        assert fake.ran + again.ran == wanted.ran


def test_a_router_that_fails_does_not_end_the_search(
    whole: Route, journal: Journal, tmp_path: Path
) -> None:
    told: list[str] = []
    worst = whole.spec.router.lr * 0.999
    with pytest.raises(
        UserError, match="no router could be trained: PlanError: the training loss is nan"
    ):
        search(whole, journal, Fake(0.0), tmp_path, told.append)
    other = opened(tmp_path / "other")
    found = search(whole, other, Fake(worst), tmp_path / "other", told.append)
    assert found.tried and found.failed and found.tried + found.failed == 6
    assert "the training loss is nan" in told[0]
    assert json.dumps(found.settings)
