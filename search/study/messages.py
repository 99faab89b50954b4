"""Turns pydantic's findings into our errors: the key, what was given, what is allowed."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainables.core.errors import UserError, did_you_mean, quoted

ALLOWED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number that is not infinite",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "dict_type": "a table",
    "model_type": "a table",
    "list_type": "a list",
    "tuple_type": "a list",
    "greater_than": "more than {gt:.12g}",
    "greater_than_equal": "{ge:.12g} or more",
    "less_than": "less than {lt:.12g}",
    "less_than_equal": "{le:.12g} or less",
    "literal_error": "{expected}",
    "value_error": "{error}",
}
WHOLE = ("dict_type", "model_type", "list_type", "tuple_type")  # described as a whole

Location: TypeAlias = tuple[int | str, ...]


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[UserError]:
    """One message per finding."""
    return [_explained(details, model, prefix) for details in error.errors()]


def _explained(details: ErrorDetails, model: type[BaseModel], prefix: str) -> UserError:
    location = tuple(part for part in details["loc"] if part != "[key]")
    key = prefix + dotted(location)
    kind = details["type"]
    if kind == "extra_forbidden":
        return _unknown_key(key, str(location[-1]), _fields(model, location[:-1]))
    if kind == "missing":
        return UserError(f"{key}: missing", allowed=_description(model, location))
    if kind == "too_short":
        field = _fields(model, location[:-1]).get(str(location[-1]))
        return UserError(f"{key}: empty", allowed=(field and field.description) or "one or more")
    own = details.get("ctx", {}).get("error")
    if isinstance(own, UserError):  # a validator's, in our words
        return UserError(_under(key, own.what), got=own.got, allowed=own.allowed, do=own.do)
    got, allowed = details["input"], _allowed(details, model, location)
    if kind == "literal_error" and isinstance(got, str):
        return UserError(key, got=got, allowed=allowed, do=did_you_mean(got, allowed.split('"')))
    return UserError(key, got=got, allowed=allowed)


def _under(key: str, name: str) -> str:
    """Where a validator of the whole table blames one of its keys."""
    return key if key.endswith(f".{name}") else f"{key.rstrip('.')}.{name}"


def _allowed(details: ErrorDetails, model: type[BaseModel], location: Location) -> str:
    kind = details["type"]
    if kind in WHOLE and (field := _fields(model, location[:-1]).get(str(location[-1]))):
        return field.description or ALLOWED[kind]
    known = ALLOWED.get(kind)
    text = known.format(**details.get("ctx", {})) if known else details["msg"]
    return text.replace("'", '"')


def _unknown_key(key: str, word: str, fields: Mapping[str, Any]) -> UserError:
    names = ", ".join(
        name
        if info.is_required()
        else f"{name} (default {quoted(info.get_default())})"
        if isinstance(info.get_default(), str | int | float | tuple)
        else name
        for name, info in fields.items()
    )
    allowed = names or "no other key, as there is nothing to set"
    return UserError(f"{key}: unknown key", allowed=allowed, do=did_you_mean(word, fields))


def dotted(location: Location) -> str:
    """`("first", 0, "a")` as `first[0].a`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _fields(model: type[BaseModel], location: Location) -> Mapping[str, Any]:
    """The fields of the table at `location`."""
    for part in location:
        field = model.model_fields.get(str(part))
        tables = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [t for t in tables if isinstance(t, type) and issubclass(t, BaseModel)]
        if not inner:
            return {}
        model = inner[0]
    return model.model_fields


def _description(model: type[BaseModel], location: Location) -> str:
    field = _fields(model, location[:-1]).get(str(location[-1]))
    if field is None:
        return ""
    if get_origin(field.annotation) is Literal:
        return " or ".join(f'"{option}"' for option in get_args(field.annotation))
    return field.description or f"{location[-1]} = ..., which has no default"
