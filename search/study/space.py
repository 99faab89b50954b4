"""Finds a study's space by name and binds the study's ranges to it.

A space is a function `space(trial, facts)`; what a study may override are its keyword-only
parameters. Loading one imports its methods, and with them torch.
"""

import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from search.errors import StudyError
from search.study.messages import explain
from search.study.schema import SpaceSpec
from trainables.core.errors import UserError, did_you_mean

Space: TypeAlias = Callable[[Any, Any], Any]  # (optuna.Trial, Facts) -> list[Stage]


def load_space(spec: SpaceSpec) -> Space:
    """The space's function with the study's overrides bound."""
    bare = "." not in spec.name and ":" not in spec.name
    function = find_function(f"spaces.{spec.name}" if bare else spec.name, "space")
    return bind(function, spec.options, "space", spec.name)


def find_function(name: str, default: str) -> Callable[..., Any]:
    """Resolve `package.module:function`, `package.module.function` or `package.module`.

    `default` is the function's name where only a module is given.
    """
    module_name, _, attribute = name.partition(":")
    module = _module(module_name)
    if module is None and not attribute and "." in module_name:
        module_name, _, attribute = module_name.rpartition(".")
        module = _module(module_name)
    if module is None:
        raise UserError(f"{default}: cannot import", got=name, do=f"there is no {module_name}")
    found = getattr(module, attribute or default, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    functions = inspect.getmembers(module, inspect.isfunction)
    names = [key for key, value in functions if value.__module__ == module_name]
    raise UserError(
        f"{default}: {module_name} has no function {attribute or default}",
        allowed=", ".join(name for name in names if not name.startswith("_")),
        do=did_you_mean(attribute or default, names),
    )


def bind(
    function: Callable[..., Any], options: Mapping[str, Any], table: str, name: str
) -> Callable[..., Any]:
    """The function with its keyword-only parameters set, each checked against its annotation.

    `table` is where a study file sets them.
    """
    model = _model(function)
    try:
        checked = model.model_validate_json(json.dumps(dict(options), default=str), strict=True)
    except ValidationError as error:
        raise StudyError(f"{table} {name}", explain(error, model, f"{table}.")) from None
    given = {name: getattr(checked, name) for name in checked.model_fields_set}
    return functools.partial(function, **given)


def _model(function: Callable[..., Any]) -> type[BaseModel]:
    """A table with one field for each keyword-only parameter."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if one.default is one.empty else one.default)
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    return create_model(
        "Ranges", __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
    )


def _module(name: str) -> ModuleType | None:
    """The module, or None where there is none; errors inside it are the user's to see."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # the installed command does not look into the current folder
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise UserError(f"{name} needs a package that is not installed: {error.name}") from error
