"""How a study's numbers came about."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search.journal.view import View
from search.report.format import measured_on
from search.report.provenance import read_as
from trainables.bench.metrics.catalogue import is_timed
from trainables.routing.spec import RouteSpec


def explained(view: View) -> Iterator[tuple[str, str]]:
    """(what, how): what was measured on which data and machines, and what was not done twice."""
    if (route := view.study.route) is not None:
        yield from _routed(route)
        return
    study, records = view.study, [one.record for one in view.results if one.state == "complete"]
    for name in study.metrics_measured:
        yield name, measured_on(study, name, "search") + _disturbed(name, records)
    items = study.data.items
    yield "model", f"{study.model.id}, {study.model.dtype}"
    yield (
        "data",
        f"{study.data.dataset} ({study.data.task}); the search looked at {items.search} items, "
        f"calibration at {items.calibration}; {items.held_out} are held out for exports",
    )
    prints = {(k, v) for one in records for k, v in (one.get("data") or {}).items()}
    yield "fingerprints", ", ".join(f"{k} {v}" for k, v in sorted(prints)) or "unknown"
    for form in sorted({said for one in records if (said := read_as(one))}):
        yield "read as", form
    machines = Counter(_machine(one.get("hardware") or {}) for one in records)
    told = "; ".join(f"{name}: {count} trials" for name, count in machines.most_common())
    yield "hardware", told or "unknown"
    if hosts := sorted({one["unshared"] for one in records if one.get("unshared")}):
        own = "do not see the results' folder: each has a cache of its own"
        yield "cache", f"{', '.join(hosts)} {own}"
    if said := _passes([one.get("passes") or {} for one in records]):
        yield "passes", said
    if view.notes.get("naive"):
        yield "shortcuts", "all off (launch --naive)"
    yield "time", _time(view)


def _routed(route: RouteSpec) -> Iterator[tuple[str, str]]:
    """The same of ways to choose a set for each prompt."""
    right = "the share of its held-out questions whose right answer the model finds likeliest"
    yield "accuracy", f"the mean over tasks of {right}"
    yield "active_parameters", "that work on an average prompt, a router's own among them"
    yield "model", f"{route.model.id}, {route.model.dtype}; router: {route.router.encoder}"
    for name, task in route.tasks.items():
        use = (
            f"{task.items.train} questions to learn from, "
            if task.routed
            else "unseen by routers, "
        )
        form = f"asked as {task.prompts} asks"
        yield name, f"{task.dataset}: {use}{task.items.held_out} held out; {form}"


def _disturbed(metric: str, records: Sequence[Mapping[str, Any]]) -> str:
    """For which trials it does not hold that a time was taken alone; older ones know no better."""
    count = sum(not (one.get("alone") or {}).get(metric) for one in records)
    return f" ({count} of {len(records)} were not)" if is_timed(metric) and count else ""


def _passes(told: Sequence[Mapping[str, Any]]) -> str:
    """Where calibrating and measuring began; older records say nothing."""
    whole, done = (sum(one.get(name, 0) for one in told) for name in ("whole", "done"))
    why = sorted({one["why"] for one in told if one.get("why")})
    if whole:
        said = f"{done:,} of {whole:,} block-forwards ({done / whole:.0%}): a model begins at the "
        return f"{said}block where it first differs from those that ran before"
    return f"whole: {'; '.join(why)}" if why else ""


def _machine(hardware: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in hardware.items()) or "unknown"


def _time(view: View) -> str:
    ended = [one for one in view.results if one.seconds is not None]
    total = sum(one.seconds or 0 for one in ended)
    shared = sum(one.same_as is not None for one in ended)
    said = f"{total:.0f} s of trials, {total / len(ended):.2f} s each" if ended else "unknown"
    return f"{said}; {shared} gave a model that was measured already" if shared else said
