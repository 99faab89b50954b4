"""A search over the router's settings, whose every training is a durable piece of work."""

from collections.abc import Callable

import optuna

from search.engine.pool import Pool, Tell, WorkItem, finish
from spaces.router import start, vary
from trainables.core.errors import UserError
from trainables.routing.spec import RouterSpec, RouteSpec


def search_router(
    spec: RouteSpec, pool: Pool, make: Callable[[RouterSpec], WorkItem], tell: Tell
) -> tuple[list[WorkItem], list[str]]:
    """Train routers with the settings Optuna proposes, the study's own first.

    The proposals depend on the seed and on earlier reports only, and reports are durable: after an
    interruption the same search is repeated, and finds its trainings done.

    Returns:
        (those that were trained, why the others failed).

    Raises:
        UserError: none could be trained.
    """
    if spec.search.trials <= 1:
        item = make(spec.router)
        finish(pool, [item])
        return [item], []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=spec.seed, n_startup_trials=4)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(start(spec.router, encoders=spec.search.encoders))
    tried: list[WorkItem] = []
    failed: list[str] = []
    while len(tried) + len(failed) < spec.search.trials:
        size = min(pool.workers, spec.search.trials - len(tried) - len(failed))
        asked = [study.ask() for _ in range(size)]
        items = [make(vary(one, spec.router, encoders=spec.search.encoders)) for one in asked]
        why = pool.run(list({item.path: item for item in items}.values()))
        for trial, item in zip(asked, items, strict=True):
            if item.path in why:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                failed.append(why[item.path])
                tell(f"routers: one failed: {why[item.path]}")
            else:
                study.tell(trial, float(item.result()["regret"]))
                tried.append(item)
    if not tried:
        raise UserError(f"no router could be trained: {failed[0]}")
    return tried, failed
