"""The search over the router's settings."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search.engine.pool import WorkItem
from search.routing.router_search import search_router
from search.routing.stages import Route
from tests.support.routing import local
from trainables.core.errors import PlanError, UserError


def test_the_routers_settings_can_be_searched(whole: Route, tmp_path: Path) -> None:
    search = whole.spec.search.model_copy(update={"trials": 5})
    spec = whole.spec.model_copy(update={"search": search})

    class Fake(WorkItem):
        def run(self, work: object) -> None:
            self.path.write_text(json.dumps({"regret": self.arguments["lr"]}))

    def make(settings: Any) -> WorkItem:
        lr = settings.lr
        return Fake(tmp_path / f"{lr}.json", "train", {"lr": lr, "settings": settings})

    first, _ = search_router(spec, local(spec), make, print)
    again, _ = search_router(spec, local(spec), make, print)
    assert len(first) == 5
    assert first[0].arguments["lr"] == pytest.approx(1e-4)  # the study's own, within the range
    assert [one.path for one in first] == [one.path for one in again]


def test_a_router_that_fails_does_not_end_the_search(whole: Route, tmp_path: Path) -> None:
    search = whole.spec.search.model_copy(update={"trials": 4})
    spec = whole.spec.model_copy(update={"search": search})
    told: list[str] = []

    class Fake(WorkItem):
        def run(self, work: object) -> None:
            if self.arguments["lr"] > self.arguments["worst"]:
                raise PlanError("the training loss is nan")
            self.path.write_text(json.dumps({"regret": self.arguments["lr"]}))

    def make(worst: float, settings: Any) -> WorkItem:
        what = {"lr": settings.lr, "worst": worst}
        return Fake(tmp_path / f"{worst}-{settings.lr}.json", "train", what)

    tried, failed = search_router(spec, local(spec), partial(make, 5e-5), told.append)
    assert len(tried) + len(failed) == 4 and tried and failed
    assert failed[0] == "the training loss is nan" and "the training loss" in told[0]
    with pytest.raises(UserError, match="no router could be trained"):
        search_router(spec, local(spec), partial(make, 0.0), told.append)
