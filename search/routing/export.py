"""The routed model as a folder that loads and does the same."""

from pathlib import Path

from search.engine.pool import Pool
from search.routing.stages import Route
from trainables.core.errors import UserError

WRITTEN = 8  # tokens per prompt that the saved model must write as the one in memory does


def export_route(route: Route, pool: Pool, to: Path) -> list[str]:
    """Save the routed model, load it again, and let it write; returns what it wrote.

    Both write here, on one device with one dtype: on another they could round to another token.

    Raises:
        UserError: the folder is not empty, or what was saved writes something else.
    """
    from trainables.routing.routed_model import RoutedModel
    from trainables.routing.router import Router
    from trainables.routing.worker import RouteWork

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError("--to", got=str(to), allowed="a new or an empty folder")
    sets, folder = list(route.sets(pool).values()), route.train(pool)
    work = RouteWork(route.spec)
    device, dtype = str(work.model.device), route.spec.model.dtype
    router = Router.load(folder)
    router.model.to(device)
    model = RoutedModel(work.model, work.tokenizer, router, sets)
    model.save(to)
    prompts = [item.asked for task in route.spec.tasks for item in work.items(task, "held_out")[:2]]
    again = RoutedModel.load(to, dtype=dtype, device=device)
    before, after = (one.generate(prompts, max_new_tokens=WRITTEN) for one in (model, again))
    if before != after:
        raise UserError(f"{to}: the saved model writes something else than the one in memory")
    return [f"{prompt} → {text}" for prompt, text in zip(prompts, after, strict=True)]
