"""JSON files as people have them, where the usual reader gives up.

Lines that are broken are left out and counted, rows may lie inside an object, and a column may hold
numbers here and text there.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

log = logging.getLogger(__name__)
Row: TypeAlias = dict[str, Any]


def json_table(path: Path, text: str) -> pa.Table:
    """The rows of a file, whatever holds them; none where nothing is one."""
    try:
        found = list(_rows(json.loads(text)))
    except json.JSONDecodeError:
        found = list(_lines(path, text))
    names = list(dict.fromkeys(name for row in found for name in row))
    columns = {name: [row.get(name) for row in found] for name in names}
    return pa.table({name: _column(values) for name, values in columns.items()})


def wrapped(text: str) -> bool:
    """Whether a file is one object, its rows in a list inside, such as `{"data": [...]}`."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:  # one object a line
        return False
    return len(list(_rows(whole))) > 0 and _list_in(whole) is not None


def _rows(whole: Any) -> Iterator[Row]:
    inside = _list_in(whole) if isinstance(whole, dict) else None
    several = inside if inside is not None else whole
    yield from (row for row in (several if isinstance(several, list) else [several]) if _is(row))


def _list_in(whole: dict[str, Any]) -> list[Any] | None:
    """The one list of objects that an object holds, None where there is not exactly one."""
    lists = [value for value in whole.values() if isinstance(value, list) and any(map(_is, value))]
    return lists[0] if len(lists) == 1 else None


def _is(row: Any) -> bool:
    return isinstance(row, dict)


def _lines(path: Path, text: str) -> Iterator[Row]:
    bad: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if _is(row):
            yield row
        else:
            bad.append(number)
    if bad:
        log.warning(
            "%s: %d lines are left out, the first is line %d: no JSON object",
            *(path.name, len(bad), bad[0]),
        )


def _column(values: list[Any]) -> pa.Array:
    """Values of one kind; where they are of several, as text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values])
