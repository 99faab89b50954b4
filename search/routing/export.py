"""The routed model as a folder that loads and does the same."""

from pathlib import Path

from search.engine.preflight import gpu_count
from search.rebuild import free
from search.routing.stages import Route
from trainables.core.errors import UserError
from trainables.routing.spec import RouteSpec

WRITTEN = 8  # tokens per prompt that the saved model must write as the one in memory does


def export_route(route: Route, to: Path, budget: int | None = None) -> list[str]:
    """Save the routed model, load it again, and let it write; returns what it wrote.

    Both write here, on one device with one dtype: on another they could round to another token.

    Args:
        budget: how many blocks its sets omit, where the study has several; by default the least.

    Raises:
        UserError: the folder is not empty, or what was saved writes something else.
    """
    from trainables.routing.routed_model import RoutedModel
    from trainables.routing.router import Router
    from trainables.routing.worker import RouteWork

    place, budgets = free(to), route.budgets
    if budget is not None and budget not in budgets:
        raise UserError("--budget", got=budget, allowed=", ".join(map(str, budgets)))
    size = min(budgets) if budget is None else budget
    sets = [list(route.sets.values())[at] for at in budgets[size]]
    work = RouteWork(_here(route.spec))
    router = Router.load(Path(route.routers[size].folder))
    router.model.to(work.model.device)
    model = RoutedModel(work.model, work.tokenizer, router, sets)
    model.save(place)
    prompts = [item.asked for task in route.spec.tasks for item in work.items(task, "held_out")[:2]]
    again = RoutedModel.load(place, dtype=route.spec.model.dtype, device=str(work.model.device))
    before, after = (one.generate(prompts, max_new_tokens=WRITTEN) for one in (model, again))
    if before != after:
        raise UserError(f"{to}: the saved model writes something else than the one in memory")
    return [f"{prompt} → {text}" for prompt, text in zip(prompts, after, strict=True)]


def _here(spec: RouteSpec) -> RouteSpec:
    """The study with as many GPUs as there are: the head of a cluster may have none."""
    wanted = spec.resources
    given = wanted.model_copy(update={"gpus": min(wanted.gpus, gpu_count())})
    return spec.model_copy(update={"resources": given})
