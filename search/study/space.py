"""Finds a study's space by name and sets the ranges that the study overrides.

A space is a class deriving from `spaces.space.Space`, or a plain function
`space(trial, facts, *, ranges)`. Loading one imports its methods, and with them torch.
"""

import contextlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeGuard, TypeVar, get_type_hints

import optuna
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from search.errors import StudyError, blaming
from search.study.checks import see_current_folder
from search.study.messages import explain
from search.study.schema import SpaceSpec
from spaces.space import Point, Space, Trial
from trainables.core.errors import PlanError, UserError, did_you_mean
from trainables.stage import Bench, Facts, Stage, check_order

Table = TypeVar("Table", bound=BaseModel)
_CHAINS = 64  # points to ask a space for
UNKNOWN = Facts(blocks=12, stacks=(12,))  # a model that stands in for one not looked at yet


class FunctionSpace(Space):
    """A plain function as a space, with the `survey` and `starts` that its module may hold.

    Attributes:
        ranges: its keyword-only parameters that the study overrides.
    """

    function: Callable[..., Any]
    ranges: dict[str, Any]
    surveys: Callable[..., Any] | None
    starting: Callable[..., Any] | None

    def survey(self, bench: Bench) -> dict[str, Any]:
        return self._call(self.surveys, bench) if self.surveys else {}

    def starts(self, facts: Facts) -> list[Point]:
        return list(self._call(self.starting, facts)) if self.starting else []

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        found: list[Stage] = self.function(trial, facts, **self.ranges)
        return found

    def _call(self, function: Callable[..., Any], given: object) -> Any:
        """What stands beside the space takes those ranges that it names."""
        taken = inspect.signature(function).parameters
        return function(given, **{k: v for k, v in self.ranges.items() if k in taken})


def load_space(spec: SpaceSpec) -> Space:
    """The space that a study names, with the study's ranges.

    Raises UserError, with one message for the user.
    """
    ours = "." not in spec.name and ":" not in spec.name
    with blaming(f"space {spec.name}"):
        found = find(f"spaces.{spec.name}" if ours else spec.name, "space")
    if _is_space(found):
        return checked(found, spec.options, "space", spec.name)
    beside = sys.modules.get(getattr(found, "__module__", ""))
    survey, starts = (getattr(beside, name, None) for name in ("survey", "starts"))
    return FunctionSpace(
        function=_like_a_space(found, spec.name),
        ranges=ranges_of(found, spec.options, "space", spec.name),
        surveys=survey if callable(survey) else None,
        starting=starts if callable(starts) else None,
    )


def _like_a_space(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, if it can be called with a trial and facts."""
    signature = inspect.signature(function)
    given = [one for one in signature.parameters.values() if one.kind is not one.KEYWORD_ONLY]
    try:
        signature.replace(parameters=given).bind(None, None)
    except TypeError:
        allowed = "a Space, or a function (trial, facts, *, ranges)"
        raise UserError(f"space {name}", got=str(signature), allowed=allowed) from None
    return function


def try_out(space: Space, facts: Facts, name: str) -> None:
    """Ask a space once, before any trial: a mistake in it would fail them all.

    Raises:
        UserError: what it raised, or that it returns something else than stages. A ValueError is
            its way to refuse a combination.
    """
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    with blaming(f"space {name}"):
        try:
            found: object = space.stages(trial, facts)
        except (ValueError, optuna.TrialPruned):
            return
    if not isinstance(found, list | tuple) or not all(isinstance(one, Stage) for one in found):
        kinds = [type(one).__name__ for one in (found if isinstance(found, list) else [found])]
        raise UserError(f"space {name} returned", got=kinds, allowed="a list of stages")


def check_chains(space: Space, facts: Facts, name: str) -> None:
    """Ask a space for many points, and look at nothing but the order of their stages.

    Before there are facts, made up ones do: whatever else goes wrong with these is not told.

    Raises:
        UserError: one of its chains makes no sense.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(_CHAINS):
        with contextlib.suppress(Exception):
            stages = space.stages(study.ask(), facts)
            if fault := _fault(stages):
                break
    else:
        return
    raise UserError(f"space {name}: a chain that makes no sense: {fault}")


def _fault(stages: Sequence[Stage]) -> str:
    try:
        check_order(stages)
    except PlanError as error:
        return str(error)
    return ""


# -- what a name means -------------------------------------------------------------------------


def find(name: str, table: str) -> Callable[..., Any]:
    """The function or space class that `package.module:name` means.

    Of `package.module` alone it is the function called as the table, or the only space there.

    Args:
        table: where a study file says it, for messages.

    Raises:
        UserError: no such module, or nothing of that name in it.
    """
    module_name, _, attribute = name.partition(":")
    module = _module(module_name)
    if module is None:
        parent, _, last = module_name.rpartition(".")
        above = _module(parent) if parent else None
        do = f'write "{parent}:{last}"' if hasattr(above, last) else ""
        raise UserError(f"{table}: cannot import", got=name, do=do or f"there is no {module_name}")
    offered = _offered(module)
    wanted = attribute or _only_space(offered) or table
    found = getattr(module, wanted, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    raise UserError(
        f"{table}: {module_name} has no function {wanted}",
        allowed=", ".join(offered),
        do=did_you_mean(wanted, offered),
    )


def _offered(module: ModuleType) -> dict[str, Any]:
    """The functions and spaces that a module defines."""
    found = inspect.getmembers(module, lambda one: inspect.isfunction(one) or _is_space(one))
    return {
        name: one
        for name, one in found
        if one.__module__ == module.__name__ and not name.startswith("_")
    }


def _only_space(offered: Mapping[str, Any]) -> str | None:
    if "space" in offered:
        return None
    classes = [name for name, one in offered.items() if _is_space(one)]
    return classes[0] if len(classes) == 1 else None


def _is_space(found: object) -> TypeGuard[type[Space]]:
    return isinstance(found, type) and issubclass(found, Space) and not inspect.isabstract(found)


def _module(name: str) -> ModuleType | None:
    """The module, or None where there is none; errors inside it are the user's to see."""
    see_current_folder()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise UserError(f"{name} needs a package that is not installed: {error.name}") from error


# -- what a study sets -------------------------------------------------------------------------


def checked(model: type[Table], options: Mapping[str, Any], table: str, name: str) -> Table:
    """An instance with these fields; `table` is where a study file sets them."""
    try:
        return model.model_validate_json(json.dumps(dict(options), default=str), strict=True)
    except ValidationError as error:
        raise StudyError(f"{table} {name}", explain(error, model, f"{table}.")) from None


def ranges_of(
    function: Callable[..., Any], options: Mapping[str, Any], table: str, name: str
) -> dict[str, Any]:
    """A function's keyword-only parameters as set, each checked against its annotation."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if one.default is one.empty else one.default)
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    config = ConfigDict(extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)
    found = checked(create_model("Ranges", __config__=config, **fields), options, table, name)
    return {key: getattr(found, key) for key in found.model_fields_set}
