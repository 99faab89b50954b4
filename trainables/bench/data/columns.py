"""Reading a row by a task's words, whatever its columns are called, and the names of classes."""

import logging
import re
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import datasets

from trainables.core.errors import DataError, near
from trainables.core.spec import DataSpec

log = logging.getLogger(__name__)
Row: TypeAlias = dict[str, Any]
Words: TypeAlias = Mapping[str, tuple[str, ...]]  # a task's words, and other names they go by


class RowError(Exception):
    """A row that holds no item, and why; the reason is the same for all rows of its kind."""


def reach(row: Row, name: str) -> Any:
    """A column's value; dots lead into tables, and with numbers into lists: `turns.0.text`.

    None where there is nothing.
    """
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("."):
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, Sequence) and not isinstance(found, str) and part.isdigit():
            found = found[int(part)] if int(part) < len(found) else None
        else:
            return None
    return found


class Columns:
    """Reads a row by a task's words (`text`, `label`) whatever its columns are called."""

    def __init__(
        self, spec: DataSpec, table: datasets.Dataset, words: Words, *, nested: bool = False
    ) -> None:
        self.names = list(table.column_names)
        self._features = table.features
        self._of: dict[str, str] = {}
        by_lower = dict(_inner(table.features)) if nested else {}
        by_lower |= {name.lower(): name for name in reversed(self.names)}
        for word, aliases in words.items():
            for alias in (word, *aliases):
                if alias in self.names or alias.lower() in by_lower:
                    self._of[word] = alias if alias in self.names else by_lower[alias.lower()]
                    break
        for word, name in spec.columns.items():
            self._check(spec, word, name, words)
            self._of[word] = name

    def _check(self, spec: DataSpec, word: str, name: str, words: Words) -> None:
        if word not in words:
            raise DataError(
                f'[data.columns] "{word}" is no word of {spec.task}{near(word, words)}; '
                f"its words are {', '.join(words)}"
            )
        if self.feature(name) is None:
            raise DataError(
                f'[data.columns] {word} = "{name}": "{spec.dataset}" has no such column'
                f"{near(name, self.names)}; it has {', '.join(self.names)}"
            )

    def __contains__(self, word: str) -> bool:
        return word in self._of

    def feature(self, name: str) -> Any:
        """What a column holds, or a place inside one: `answers.text`; None where there is none."""
        if name in self._features:
            return self._features[name]
        found: Any = self._features
        for part in name.split("."):
            if isinstance(found, Mapping):
                found = found.get(part)
            elif (inner := getattr(found, "feature", None)) is not None and part.isdigit():
                found = inner
            else:
                return None
        return found

    def name(self, word: str) -> str:
        """What the data set calls a word; DataError if it has no such column."""
        if word not in self._of:
            raise DataError(
                f'no column found for "{word}": the data set has {", ".join(self.names)}. '
                f'Name it: [data.columns] {word} = "..."'
            )
        return self._of[word]

    def take(self, **names: str) -> None:
        """Read these columns for these words."""
        self._of |= names

    def items(self) -> ItemsView[str, str]:
        """The words that there are columns for, and the columns."""
        return self._of.items()

    def names_of(self, words: Iterable[str]) -> list[str]:
        """The columns of those words that there are columns for."""
        return [self._of[word] for word in words if word in self._of]

    def view(self, row: Row) -> Row:
        """The row under the task's words, next to its own columns."""
        return {**row, **{word: reach(row, name) for word, name in self._of.items()}}

    def must_be_text(self, words: Iterable[str]) -> None:
        """Raises DataError where one of those columns holds lists or tables."""
        for word in words:
            feature = self.feature(self.name(word))
            if not isinstance(feature, datasets.Value | datasets.ClassLabel):
                raise DataError(
                    f'column "{self.name(word)}" holds a {_kind(feature)} per row; allowed is text',
                    do=f'name another: [data.columns] {word} = "..."',
                )

    def must_be_lists(self, words: Iterable[str]) -> None:
        """Raises DataError where one of those columns holds single values, or lists of tables."""
        for word in words:
            feature = self.feature(self.name(word))
            if isinstance(feature, datasets.Value | datasets.ClassLabel):
                raise DataError(
                    f'column "{self.name(word)}" holds one value per row; allowed is a list',
                    do="CSV has none: give the rows as JSON lines or Parquet",
                )
            inner = getattr(feature, "feature", None)
            if inner is not None and not isinstance(inner, datasets.Value | datasets.ClassLabel):
                raise DataError(
                    f'column "{self.name(word)}" holds a list of {_kind(inner)}s per row; '
                    "allowed is a list of texts",
                    do=f'name another: [data.columns] {word} = "..."',
                )

    def texts_but(self, read: Iterable[str]) -> list[str]:
        """The columns of text that are none of those."""
        known = set(read)
        return [n for n in self.names if n not in known and holds_text(self._features[n])]


def _inner(features: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The columns of tables inside rows: their own names, and the ways to them."""
    for name, feature in reversed(list(features.items())):
        if isinstance(feature, Mapping):
            yield from ((key.lower(), f"{name}.{way}") for key, way in _inner(feature))
            yield from ((key.lower(), f"{name}.{key}") for key in reversed(list(feature)))


def holds_text(feature: Any) -> bool:
    """Whether a column's values are text."""
    return isinstance(feature, datasets.Value) and "string" in feature.dtype


def _kind(feature: Any) -> str:
    return "table" if isinstance(feature, dict) else type(feature).__name__


# -- classes -------------------------------------------------------------------------------------


class Labels:
    """The classes of a column: their names in order, and the number of each value.

    Whole numbers stand for themselves however far apart. -1 means unlabelled, as in hidden test
    labels, unless only one class would remain; so does an empty cell.
    """

    def __init__(self, tables: Sequence[datasets.Dataset], column: str) -> None:
        self.column = column
        feature = tables[0].features[column]
        if not isinstance(feature, datasets.Value | datasets.ClassLabel):
            raise DataError(
                f'column "{column}" holds a {_kind(feature)} per row; allowed is one class'
            )
        found = {_value(value) for table in tables for value in table.unique(column)} - {None}
        if isinstance(feature, datasets.ClassLabel):
            self.names = tuple(feature.names)
            self._number: dict[Any, int] = {number: number for number in range(len(self.names))}
            return
        if any(isinstance(value, float) for value in found):
            example = next(value for value in found if isinstance(value, float))
            raise DataError(
                f'column "{column}" holds numbers such as {example}, not classes. '
                'Name the column with the classes: [data.columns] label = "..."'
            )
        if len(found - {-1, "-1"}) > 1:
            found -= {-1, "-1"}
        if len({type(value) for value in found}) > 1:  # numbers in one file, text in another
            found = {str(value) for value in found}
        values = sorted(found)
        self.names = tuple(str(value) for value in values)
        self._number = {str(value): number for number, value in enumerate(values)}
        self._number |= {value: number for number, value in enumerate(values)}

    def number(self, row: Row) -> int:
        """The number of a row's class. Raises RowError if it has none."""
        value = _value(row[self.column])
        if value is None:
            raise RowError(f'no class in column "{self.column}"')
        number = self._number.get(value, self._number.get(str(value)))
        if number is None:
            raise RowError(f'{value} in column "{self.column}", which counts as unlabelled')
        return number

    def number_as(self, model: Sequence[str], dataset: str) -> None:
        """Number and name the classes as a fine-tuned model does; DataError if they are others."""
        order = matched(self.names, model, dataset)
        if _unnamed(model) and not all(name.isdigit() for name in self.names):
            told = ", ".join(f"{number} = {name}" for number, name in enumerate(self.names))
            log.warning(
                '"%s": the model has no names for its classes; they are taken in the order of the '
                "data set's (%s)",
                *(dataset, told),
            )
        self._number = {value: order[number] for value, number in self._number.items()}
        self.names = self.names if _unnamed(model) else tuple(model)

    def names_in(self, table: datasets.Dataset) -> set[str]:
        """The classes that occur in a table."""
        values = (_value(value) for value in table.unique(self.column))
        numbers = (self._number.get(value, self._number.get(str(value))) for value in values)
        return {self.names[number] for number in numbers if number is not None}


def _value(value: Any) -> Any:
    """A label as a whole number where it is one, as text or truth; None where it is missing."""
    if isinstance(value, float):
        if value != value:
            return None
        return int(value) if value.is_integer() else value
    return None if isinstance(value, str) and not value.strip() else value


def matched(data: Sequence[str], model: Sequence[str], dataset: str) -> list[int]:
    """The number that a fine-tuned model gives to each class of the data.

    Classes match by name, whatever its case; data with numbers from 0 on, or a model whose classes
    are called LABEL_0, LABEL_1, ..., have no names and match by number.

    Raises DataError where they are not the same classes.
    """
    mine, theirs = [_plain(name) for name in data], [_plain(name) for name in model]
    if len(mine) == len(theirs):
        if sorted(mine) == sorted(set(theirs)) and not _unnamed(model):
            return [theirs.index(name) for name in mine]
        if _unnamed(model) or mine == [str(number) for number in range(len(mine))]:
            return list(range(len(mine)))
    raise DataError(
        f'"{dataset}" has {len(data)} classes ({_listed(data)}), the model was trained to tell '
        f"apart {len(model)} ({_listed(model)})",
        do="name the data's classes as the model does, or start from a model without this head",
    )


def _unnamed(classes: Sequence[str]) -> bool:
    """Whether these are names that transformers made up."""
    return all(re.fullmatch(r"label_\d+", _plain(name)) for name in classes)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
