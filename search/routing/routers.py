"""A search over the router's settings, in the study's own storage: every training is a trial, and
a piece of work. Judged by the accuracy of its choices on validation items, of equally accurate ones
by their regret; trial 0 is the best static set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FixedTrial

from search.engine.dispatch import Tell
from search.engine.pieces import Piece, Program
from search.journal.journal import Journal
from search.routing.log import step
from search.samplers.build import sampler_source
from search.study.schema import SamplerSpec
from spaces.router import start, vary
from trainables.core.errors import UserError
from trainables.routing.answers import Answers, best_set, by_task
from trainables.routing.spec import RouterSpec, RouteSpec

GOALS = {"accuracy": "max", "regret": "min"}
Make = Callable[[RouterSpec], Mapping[str, Any]]


@dataclass(frozen=True)
class Trained:
    """The router that was best: its folder, settings and report, and how many were tried."""

    folder: str
    settings: Mapping[str, Any]
    report: Mapping[str, float]
    tried: int
    failed: int


def search_router(
    spec: RouteSpec, journal: Journal, results: Path, answers: Answers, make: Make, tell: Tell
) -> Program[Trained]:
    """Train routers with the settings that the study's sampler proposes, the study's own first.

    Args:
        results: where trainings leave their records.
        make: what a worker is asked to train with some settings.

    Raises:
        UserError: none could be trained.
    """
    wanted = spec.search

    def ask(trial: Any) -> list[RouterSpec]:
        return [vary(trial, spec.router, wanted)]

    journal.reclaim(results)
    if journal.baseline() is None:
        given = journal.hand_out(None)
        assert given is not None
        journal.settle(given.number, _static(spec, answers))
    source = sampler_source(
        SamplerSpec(), seed=spec.seed, trials=wanted.trials, ask=ask, directions=GOALS
    )
    journal.begin(source, [start(spec.router, wanted)])
    while _ended(journal) < wanted.trials and not journal.exhausted:
        asked = [journal.hand_out(ask) for _ in range(_due(journal, spec.abreast, wanted.trials))]
        pieces = {
            one.number: Piece(
                results / f"{one.uid}.json", "train", make(ask(FixedTrial(one.params))[0])
            )
            for one in asked
            if one is not None
        }
        failed = yield list(pieces.values())
        for number, piece in pieces.items():
            if why := failed.get(piece.path):
                journal.fail(number, why)
                tell(f"routers: one failed: {why}")
            else:
                journal.settle(number, piece.record())
    return _best(journal)


def _due(journal: Journal, workers: int, trials: int) -> int:
    """How many to hand out at once: those owed, and as many more as fill up the workers' round,
    so that what is proposed in it does not depend on interruptions."""
    opened, owed = len(journal.trials()) - 1, len(journal.owed)
    more = -opened % workers or (0 if owed else workers)
    return owed + min(more, trials - opened)


def _ended(journal: Journal) -> int:
    return sum(row.state.is_finished() for row in journal.trials()[1:])


def _static(spec: RouteSpec, answers: Answers) -> dict[str, Any]:
    """What no router has to be better than, on the same validation items."""
    _, held = answers.split(spec.router.validation, spec.router.seed)
    at = best_set(answers)
    lost = held.probability.max(1) - held.probability[:, at]
    metrics = {
        "accuracy": float(by_task(held.right[:, at], held.tasks)),
        "regret": float(by_task(lost, held.tasks)),
    }
    return {"state": "complete", "metrics": metrics, "stages": [step("Static", {"set": at})]}


def _best(journal: Journal) -> Trained:
    rows = [row for row in journal.trials()[1:] if row.state.is_finished()]
    records = [row.user_attrs["record"] for row in rows]
    done = [one for one in records if one["state"] == "complete"]
    failed = [one["reason"] for one in records if one["state"] != "complete"]
    if not done:
        raise UserError(f"no router could be trained: {failed[0] if failed else 'none was tried'}")
    best = min(done, key=lambda one: (-one["metrics"]["accuracy"], one["metrics"]["regret"]))
    [stage] = best["stages"]
    return Trained(best["folder"], stage["settings"], best["metrics"], len(done), len(failed))
