"""Reading a row by a task's words, whatever its columns are called, and the names of classes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import datasets

from trainables.core.errors import DataError, near
from trainables.core.spec import DataSpec

Row: TypeAlias = dict[str, Any]
Words: TypeAlias = Mapping[str, tuple[str, ...]]  # a task's words, and other names they go by


class Columns:
    """Reads a row by a task's words (`text`, `label`) whatever its columns are called."""

    def __init__(self, spec: DataSpec, table: datasets.Dataset, words: Words) -> None:
        self.names = list(table.column_names)
        self._of: dict[str, str] = {}
        for word, aliases in words.items():
            if found := [name for name in (word, *aliases) if name in self.names]:
                self._of[word] = found[0]
        for word, name in spec.columns.items():
            self._check(spec, word, name, words)
            self._of[word] = name

    def _check(self, spec: DataSpec, word: str, name: str, words: Words) -> None:
        if word not in words:
            raise DataError(
                f'[data.columns] "{word}" is no word of {spec.task}{near(word, words)}; '
                f"its words are {', '.join(words)}"
            )
        if name not in self.names:
            raise DataError(
                f'[data.columns] {word} = "{name}": "{spec.dataset}" has no such column'
                f"{near(name, self.names)}; it has {', '.join(self.names)}"
            )

    def __contains__(self, word: str) -> bool:
        return word in self._of

    def name(self, word: str) -> str:
        """What the data set calls a word; DataError if it has no such column."""
        if word not in self._of:
            raise DataError(
                f'no column found for "{word}": the data set has {", ".join(self.names)}. '
                f'Name it: [data.columns] {word} = "..."'
            )
        return self._of[word]

    def names_of(self, words: Iterable[str]) -> list[str]:
        """The columns of those words that there are columns for."""
        return [self._of[word] for word in words if word in self._of]

    def view(self, row: Row) -> Row:
        """The row under the task's words, next to its own columns."""
        return {**row, **{word: row[name] for word, name in self._of.items()}}


def label_names(
    tables: Sequence[datasets.Dataset], column: str
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The class names in order, and the number of each value found in the column.

    Values that name no class, such as the -1 of a hidden test label, have no number.
    """
    feature = tables[0].features[column]
    if not isinstance(feature, datasets.Value | datasets.ClassLabel):
        raise DataError(
            f'column "{column}" holds a {type(feature).__name__} per row; allowed is one class'
        )
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        by_value: dict[Any, int] = {number: number for number in range(len(names))}
        return names, by_value
    values = sorted({value for table in tables for value in table.unique(column)} - {None})
    if any(isinstance(value, float) for value in values):
        raise DataError(
            f'column "{column}" holds numbers such as {values[0]}, not classes. '
            'Name the column with the classes: [data.columns] label = "..."'
        )
    return tuple(str(value) for value in values), {v: number for number, v in enumerate(values)}
