"""`rayduce launch --check STUDY`: all that is missing, said before the first trial."""

import secrets
from collections.abc import Callable, Iterator

from search.engine.preflight import check_resources
from search.engine.ray_session import ray_cluster, ray_environment, refuse_lost_folder
from search.engine.shipping import users_modules
from search.journal.store import Store, write_text
from search.readiness import memory, nodes, services
from search.readiness.finding import Finding, ready
from search.study.schema import Study
from trainables.core.errors import UserError


def check(study: Study, store: Store, told: Callable[[Finding], None]) -> bool:
    """Look at everything a study needs; whether nothing is missing.

    Args:
        told: told of each finding as soon as it is known.
    """
    found = []
    for one in _findings(study, store):
        told(one)
        found.append(one)
    return ready(found)


def _findings(study: Study, store: Store) -> Iterator[Finding]:
    refuse_lost_folder(store.folder)
    store.create()
    yield from services.judge(store)
    try:
        check_resources(study.resources)
    except UserError as error:
        yield Finding("resources", "missing", str(error))
        return
    ray_environment()
    try:
        yield from _on_ray(study, store)
    except UserError as error:
        yield Finding("Ray", "missing", str(error))


def _on_ray(study: Study, store: Store) -> Iterator[Finding]:
    mark, place = secrets.token_hex(8), store.root / "marker-of-check"
    write_text(place, mark)
    seen = services.local_paths(study.model.id, study.data.dataset)
    asked = nodes.Question((str(place), mark), seen, str(store.cache))
    try:
        with ray_cluster(study.resources, lambda text: None, users_modules(study)) as places:
            reports = nodes.ask(places.usable(), asked)
            yield from nodes.judge(reports, study.resources, study.storage.cache_gb)
            yield from memory.judge(study, store, reports)
    finally:
        place.unlink(missing_ok=True)
