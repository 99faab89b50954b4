"""What a study file's tables say together: names that exist, limits that can be met.

Every check returns what it found, so that one message lists it all. Nothing here imports torch.
"""

import ast
import importlib.util
import math
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from search.study.constraints import Constraint
from search.study.database import database_problems
from search.study.options import sampler_problems, scheduler_problems
from search.study.schema import Direction, Study
from trainables.bench.assets.catalogue import ASSETS
from trainables.bench.metrics.catalogue import HARNESS_METRICS, METRIC_FACTS
from trainables.core.errors import UserError, did_you_mean
from trainables.core.places import CHECKOUT
from trainables.core.spec import Task, data_file

SPACES = CHECKOUT / "spaces"
MODEL = "config.json"
PLACES = {
    "model": f"a hub id, a folder that holds {MODEL}, or asset:NAME",
    "data": "a hub id, a file or folder of rows, or asset:NAME",
}


def problems(study: Study) -> list[UserError]:
    """Everything that is wrong between the tables."""
    found = [
        *_budget(study),
        *_space(study.space.name),
        *source_problems("model.id", study.model.id, "model"),
        *source_problems("data.dataset", study.data.dataset, "data"),
        *_metrics(study),
        *_harness(study),
        *_constraints(study),
        *sampler_problems(study.sampler, study.directions),
        *scheduler_problems(study.scheduler, study.objectives),
        *_first(study),
        *database_problems(study.storage.database),
    ]
    return found


def _budget(study: Study) -> Iterator[UserError]:
    if study.budget.trials is None and study.budget.hours is None:
        yield UserError("budget: empty", allowed="trials = 40 and/or hours = 8")


def _space(name: str) -> Iterator[UserError]:
    head, names = name.replace(":", ".").split(".")[0], space_names()
    allowed = f'{", ".join(names)}, or "package.module:name"'
    if head == name and name not in names:
        yield UserError("space", got=name, allowed=allowed, do=did_you_mean(name, names))
    elif head != name and not _importable(head):
        do = f"run from the folder that holds {head}/ or {head}.py, or install it"
        yield UserError("space: no such package", got=name, allowed=allowed, do=do)


def _importable(package: str) -> bool:
    see_current_folder()
    return package.isidentifier() and importlib.util.find_spec(package) is not None


def space_names() -> list[str]:
    """Our own spaces, found without importing them."""
    return sorted(path.stem for path in SPACES.glob("*.py") if _holds_a_space(path))


def _holds_a_space(path: Path) -> bool:
    """Whether a file of spaces/ has a class with `stages`, or a function `space`."""
    tops = ast.parse(path.read_text("utf-8")).body
    inside = [node for top in tops if isinstance(top, ast.ClassDef) for node in top.body]
    defined = {node.name for node in [*tops, *inside] if isinstance(node, ast.FunctionDef)}
    return path.stem != "space" and bool(defined & {"stages", "space"})


def see_current_folder() -> None:
    """Let users' own modules be found: the installed command does not look where it stands."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def source_problems(key: str, name: str, kind: str) -> Iterator[UserError]:
    """What is wrong with the name of a model or data set; `kind` is "model" or "data"."""
    scheme, _, rest = name.partition(":")
    if scheme == "asset":
        known = asset_names(kind)
        if known and rest not in known:
            allowed = ", ".join(f"asset:{asset}" for asset in known)
            yield UserError(key, got=name, allowed=allowed, do=did_you_mean(rest, known))
    elif looks_local(name) and not Path(name).expanduser().exists():
        do = f"looked at {Path(name).expanduser().absolute()}"
        yield UserError(f"{key}: no such path", got=name, allowed=PLACES[kind], do=do)
    elif kind == "model" and looks_local(name) and not (Path(name).expanduser() / MODEL).is_file():
        what, do = f"{key}: not a model's folder", f"it holds no {MODEL}"
        yield UserError(what, got=name, allowed=PLACES[kind], do=do)


def looks_local(name: str) -> bool:
    """Whether a name is a path rather than a hub id."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or data_file(name) is not None


def asset_names(kind: str) -> tuple[str, ...]:
    """The packaged models or data sets."""
    return tuple(name for name, asset in ASSETS.items() if asset.kind == kind)


def _metrics(study: Study) -> Iterator[UserError]:
    task = study.data.task
    fitting = [name for name, facts in METRIC_FACTS.items() if task in facts.tasks]
    names = [*study.metrics, *fitting]
    for name in set(study.metrics) & set(METRIC_FACTS):
        taken = ", ".join(METRIC_FACTS)
        what, allowed = f"metrics.{name}: there is a metric of this name", f"any name but {taken}"
        yield UserError(what, allowed=allowed, do="rename yours")
    for table in ("objectives", "constraints"):
        for name in getattr(study, table):
            if name not in names:
                yield _unfit(f"{table}.{name}", name, names, task)
    for key, name in _asked_by_the_space(study):
        if name not in names:
            yield _unfit(f"space.{key}", name, names, task)
    for name, direction in study.objectives.items():
        if name in fitting and name not in study.metrics:
            yield from _backwards(name, direction)


def _harness(study: Study) -> Iterator[UserError]:
    """Metrics that lm-evaluation-harness measures, and whether it can."""
    asked = [name for name in (*study.objectives, *study.constraints) if name in HARNESS_METRICS]
    if asked and study.data.harness is None:
        allowed = 'its tasks or their files, such as harness = "arc_easy,piqa"'
        yield UserError(f"data.harness: missing, for {', '.join(asked)}", allowed=allowed)
    if study.data.harness is not None and (missing := harness_missing("data.harness")):
        yield missing


def harness_missing(key: str) -> UserError | None:
    """A word where lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is not None:
        return None
    what = f"{key}: lm-evaluation-harness is not installed"
    return UserError(what, allowed="after pip install 'rayduce[harness]'", do="or leave it out")


def _asked_by_the_space(study: Study) -> Iterator[tuple[str, str]]:
    """Metrics that stages are to ask for on the way, as our own spaces call them."""
    if not set(study.space.name) & set(".:"):
        options = study.space.options
        yield from ((key, str(options[key])) for key in ("metric", "watch") if options.get(key))


def _unfit(key: str, name: str, names: list[str], task: Task) -> UserError:
    allowed = f"{', '.join(names)}, or one of your own in [metrics]"
    if name not in METRIC_FACTS:
        return UserError(f"{key}: unknown metric", allowed=allowed, do=did_you_mean(name, names))
    fits = " and ".join(sorted(METRIC_FACTS[name].tasks))
    what = f"{key}: not measured when data.task is {task}"
    return UserError(what, allowed=allowed, do=f"{name} is for {fits}")


def _backwards(name: str, direction: Direction) -> Iterator[UserError]:
    better = METRIC_FACTS[name].direction
    if direction != better:
        worst = "highest" if better == "min" else "lowest"
        do = f"this would look for the {worst} {name}"
        yield UserError(f"objectives.{name}", got=direction, allowed=f'"{better}"', do=do)


def _constraints(study: Study) -> Iterator[UserError]:
    for metric, limits in study.constraints.items():
        if metric in METRIC_FACTS and metric not in study.metrics:
            yield from filter(None, (_out_of_range(limit) for limit in limits))
        for one, other in combinations(limits, 2):
            if _contradict(one, other):
                what = f'constraints.{metric}: no value meets both "{one.text}" and "{other.text}"'
                yield UserError(what, allowed="limits with room between them", do="loosen one")


def _out_of_range(limit: Constraint) -> UserError | None:
    facts = METRIC_FACTS[limit.metric]
    if limit.relative:
        return None
    number = limit.limit(None)
    if number >= facts.low if limit.at_most else number <= facts.high:
        return None
    allowed = f"{limit.metric} is never below {facts.low:g}"
    if facts.high < math.inf:
        allowed = f"{limit.metric} lies between {facts.low:g} and {facts.high:g}"
    what = f"constraints.{limit.metric}: can never be met"
    return UserError(what, got=limit.text, allowed=allowed, do="loosen it")


def _contradict(one: Constraint, other: Constraint) -> bool:
    """Whether no baseline above zero leaves room between the two limits."""
    if one.at_most == other.at_most:
        return False
    upper, lower = (one, other) if one.at_most else (other, one)
    return (
        lower.factor >= upper.factor
        and lower.offset >= upper.offset
        and (lower.factor, lower.offset) != (upper.factor, upper.offset)
    )


def _first(study: Study) -> Iterator[UserError]:
    for index, point in enumerate(study.first):
        for key, value in point.items():
            if isinstance(value, Mapping):
                inner = next(iter(_flat(value)), "...")
                yield UserError(
                    f"first[{index}].{key}: a table",
                    allowed="numbers, text, true or false, lists of them",
                    do=f'put dotted names in quotes: "{key}.{inner}" = ...',
                )


def _flat(table: Mapping[str, Any]) -> list[str]:
    """The dotted names in a nested table."""
    return [
        name if not inner else f"{name}.{inner}"
        for name, value in table.items()
        for inner in (_flat(value) if isinstance(value, Mapping) else [""])
    ]
