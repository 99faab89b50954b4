"""Whether a trial fits on a card: counted on a node from the model's own configuration."""

from collections.abc import Iterator, Sequence

from search.journal.store import Store
from search.readiness.finding import Finding
from search.readiness.nodes import NodeReport
from search.study.schema import Study

ANSWER = 300.0  # seconds: the node imports transformers, and may fetch a configuration


def judge(study: Study, store: Store, reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """A trial's memory against the smallest card's share of it."""
    import ray

    from trainables.bench.footprint import footprint

    task = ray.remote(num_cpus=0, max_retries=0)(footprint)
    try:
        need = ray.get(task.remote(study.bench_spec(store.cache)), timeout=ANSWER)
    except Exception as error:  # a model that cannot be reached, or is of a kind that is not known
        reason = getattr(error, "cause", None) or error  # Ray puts a traceback around it
        lines = str(reason).strip().splitlines() or ["no answer"]
        yield Finding("memory of a trial", "unknown", f"cannot be counted: {lines[-1]}")
        return
    sizes = [size for one in reports if one.answer for _, size in one.answer.cards]
    yield against(need.parts(), need.most, sizes, study.resources.gpus)


def against(parts: str, most: float, cards: Sequence[float], gpus: float) -> Finding:
    """The most bytes that a trial holds at once, against what a card leaves to it.

    Args:
        gpus: cards of a trial, or a share of one.
    """
    from trainables.bench.footprint import SPARE

    said = f"about {most / 1e9:.1f} GB ({parts})"
    if not gpus or not cards:
        return Finding("memory of a trial", "ok", said)
    room = (min(cards) - SPARE) * min(gpus, 1.0)
    told = f"{said} of {room / 1e9:.1f} GB that a card leaves to it"
    if most <= room:
        return Finding("memory of a trial", "ok", told)
    do = 'take dtype = "bfloat16", a smaller batch_size or max_length, or more of a GPU, or several'
    return Finding("memory of a trial", "missing", told, do)
