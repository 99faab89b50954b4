"""Reading local files as tables: how they are packed, encoded and delimited is found out.

A guess is said, with the key that overrides it. In CSV files only an empty cell is missing:
`NA` and `None` are text, as are dates and numbers that would be written otherwise, and columns of
whole numbers stay whole.
"""

import csv
import glob
import gzip
import io
import logging
import tempfile
from codecs import (
    BOM_UTF8,
    BOM_UTF16_BE,
    BOM_UTF16_LE,
    BOM_UTF32_BE,
    BOM_UTF32_LE,
    getincrementaldecoder,
)
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from charset_normalizer import from_bytes
from pyarrow import csv as arrow_csv

from trainables.bench.data.json_rows import json_table, wrapped
from trainables.core.errors import DataError
from trainables.core.spec import DATA_FILES, DataSpec, data_file

log = logging.getLogger(__name__)

_MARKS = {
    BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    BOM_UTF32_BE: "utf-32",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
    BOM_UTF8: "utf-8-sig",
}
_USUAL = (
    *("cp949", "cp932", "gb18030", "big5", "euc_jp", "cp1251", "koi8_r", "cp1252", "cp1250"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "cp874"),
)
_SAMPLE = 1 << 18  # bytes that tell an encoding
_RECORDS = 50  # that tell a delimiter
_MOST = 2**31 - 2  # bytes of CSV that Arrow infers types from at once


def read_files(paths: list[Path], spec: DataSpec) -> datasets.Dataset:
    """Files of one kind as one table, in order."""
    kind = data_file(paths[0].name)
    if kind is None:
        raise DataError(
            "no reader for this kind of file",
            got=paths[0].name,
            allowed=f"{', '.join(DATA_FILES)}, all but Parquet also as .gz",
        )
    if DATA_FILES[kind] == "csv":
        tables = [_csv(path, spec) for path in paths]
        return datasets.Dataset(pa.concat_tables(tables, promote_options="permissive"))
    if kind == ".txt":
        documents = [text for path in paths for text in _documents(_text(path, spec), paths, spec)]
        return datasets.Dataset.from_dict({"text": documents})
    if DATA_FILES[kind] == "json":
        return _json(paths, spec)
    return _usual(kind, paths, spec)


def _json(paths: list[Path], spec: DataSpec) -> datasets.Dataset:
    """By the usual reader, and where that gives up by our own."""
    texts = ((path, _decoded(path, encoding_of(path, spec))) for path in paths)
    if not all(_is_lines(path) for path in paths) and any(wrapped(text) for _, text in texts):
        return _own(paths, spec)
    said = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # it logs what it raises
    try:
        return _usual(".json", paths, spec)
    except (datasets.exceptions.DatasetsError, pa.ArrowException, ValueError):
        if not (found := _own(paths, spec)):
            raise
        return found
    finally:
        datasets.logging.set_verbosity(said)


def _own(paths: list[Path], spec: DataSpec) -> datasets.Dataset:
    tables = [json_table(path, _decoded(path, encoding_of(path, spec))) for path in paths]
    return datasets.Dataset(pa.concat_tables(tables, promote_options="permissive"))


def _is_lines(path: Path) -> bool:
    """Whether a file has an object a line, as its first line tells."""
    with _opened(path) as file:
        first, more = file.readline().strip(), file.read(1)
    return first.startswith(b"{") and first.endswith(b"}") and bool(more)


def _usual(kind: str, paths: list[Path], spec: DataSpec) -> datasets.Dataset:
    """As `datasets` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        names = [glob.escape(str(_as_utf8(path, spec, Path(folder)))) for path in paths]
        found = datasets.load_dataset(DATA_FILES[kind], data_files=names)
        return cast(datasets.Dataset, found["train"])


def _documents(text: str, paths: list[Path], spec: DataSpec) -> list[str]:
    """What one document is: a file of many; in a single file a paragraph, or else a line."""
    if len(paths) > 1 or spec.windows == "joined":
        return [text]
    return text.split("\n\n") if "\n\n" in text else text.splitlines()


def _as_utf8(path: Path, spec: DataSpec, folder: Path) -> Path:
    """The file itself, or where it is encoded in another way a copy in UTF-8."""
    if data_file(path.name) == ".parquet":
        return path.resolve()
    encoding = encoding_of(path, spec)
    if encoding == "utf-8":
        return path.resolve()
    copy = folder / f"{len(list(folder.iterdir()))}-{path.name.lower().removesuffix('.gz')}"
    copy.write_text(_decoded(path, encoding), "utf-8")
    return copy


def _opened(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


# -- encodings -----------------------------------------------------------------------------------


def encoding_of(path: Path, spec: DataSpec) -> str:
    """What the study says, a byte order mark, UTF-8 where all is UTF-8, or a guess that is said."""
    if spec.encoding is not None:
        return spec.encoding
    with _opened(path) as file:
        start = file.read(_SAMPLE)
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    wide = _without_mark(start)
    if wide is None and _is_utf8(path):
        return "utf-8"
    guess = wide or _guessed(start)
    if guess is None:
        do = '[data] encoding = "..." says what it is'
        raise DataError(f"{path.name} is not UTF-8, nor any encoding known here", do=do)
    log.warning(
        '%s is not UTF-8; it is read as %s: [data] encoding = "..." says otherwise',
        path.name,
        guess,
    )
    return guess


def _without_mark(start: bytes) -> str | None:
    """UTF-16 that does not say so: no other text holds zeros, and ASCII has them on one side."""
    if b"\0" not in start:
        return None
    return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"


def _is_utf8(path: Path) -> bool:
    decoder = getincrementaldecoder("utf-8")()
    try:
        with _opened(path) as file:
            while block := file.read(1 << 20):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _guessed(start: bytes) -> str | None:
    whole = start[: start.rfind(b"\n") + 1] or start  # no character is cut in two
    found = [match.encoding for match in from_bytes(whole, cp_isolation=list(_USUAL))]
    if found[:1] == ["cp1250"] and "cp1252" in found:
        return "cp1252"  # a short text looks like both, and the West writes more of them
    return found[0] if found else None


def _decoded(path: Path, encoding: str) -> str:
    with _opened(path) as file:
        raw = file.read()
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} cannot be read as {encoding} (byte {error.start})",
            do='[data] encoding = "..." says what it is',
        ) from error


def _text(path: Path, spec: DataSpec) -> str:
    text = _decoded(path, encoding_of(path, spec))
    return text.replace("\r\n", "\n").replace("\r", "\n")


# -- CSV -----------------------------------------------------------------------------------------


def _csv(path: Path, spec: DataSpec) -> pa.Table:
    raw = _decoded(path, encoding_of(path, spec)).encode()
    delimiter = spec.delimiter or _delimiter(path, raw)
    try:
        table, bad = _parsed(raw, delimiter, {})
        if names := _rewritten(raw, delimiter, table, spec):
            table, _ = _parsed(raw, delimiter, dict.fromkeys(names, pa.string()))
    except pa.ArrowInvalid as error:
        do = '[data] delimiter = ";" says what parts its columns'
        raise DataError(f"{path.name} cannot be read as CSV: {error}", do=do) from error
    if bad:
        one = bad[0]
        log.warning(
            "%s: %d rows are left out, the first in line %s: %d cells instead of %d",
            *(path.name, len(bad), one.number, one.actual_columns, one.expected_columns),
        )
    return table


def _rewritten(raw: bytes, delimiter: str, table: pa.Table, spec: DataSpec) -> list[str]:
    """The columns that as numbers or dates would be written otherwise than they are: `007`, and
    where there are no classes `3.50`, or `42` among such."""
    found = [field.name for field in table.schema if pa.types.is_temporal(field.type)]
    plain = {at: _plain(field.type, spec) for at, field in enumerate(table.schema)}
    names = {at: table.column_names[at] for at, pattern in plain.items() if pattern}
    if names:
        texts, _ = _parsed(raw, delimiter, dict.fromkeys(names.values(), pa.string()))
        for at, name in names.items():
            as_read = pc.all(pc.match_substring_regex(texts.column(at), plain[at]))
            found += [] if as_read.as_py() else [name]
    return found


def _plain(kind: pa.DataType, spec: DataSpec) -> str | None:
    """How numbers of a kind look that come out as they went in; None where that is no matter."""
    if pa.types.is_integer(kind):
        return r"^\s*(-?(0|[1-9]\d*))?\s*$"
    if pa.types.is_floating(kind) and "classification" not in spec.task:
        return r"^\s*(-?\d+\.0)?\s*$"
    return None


def _parsed(
    raw: bytes, delimiter: str, types: dict[str, pa.DataType]
) -> tuple[pa.Table, list[arrow_csv.InvalidRow]]:
    """A table, and the rows that have too few or too many cells for it."""
    bad: list[arrow_csv.InvalidRow] = []
    table = arrow_csv.read_csv(
        io.BytesIO(raw),
        read_options=arrow_csv.ReadOptions(block_size=min(len(raw) + 1, _MOST), use_threads=False),
        parse_options=arrow_csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=_skipping(bad)
        ),
        convert_options=arrow_csv.ConvertOptions(
            null_values=[""], true_values=[], false_values=[], column_types=types
        ),
    )
    return table, bad


def _skipping(bad: list[arrow_csv.InvalidRow]) -> Callable[[arrow_csv.InvalidRow], str]:
    def skip(row: arrow_csv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    return skip


def _delimiter(path: Path, raw: bytes) -> str:
    """What parts the header and, most often, the records after it into as many cells."""
    if data_file(path.name) == ".tsv":
        return "\t"
    found = max(",;\t|", key=lambda mark: _agreeing(raw, mark))  # the first of equals
    if found != ",":
        log.warning('%s is read with "%s" between its columns', path.name, repr(found)[1:-1])
    return found


def _agreeing(raw: bytes, mark: str) -> float:
    records = list(_records(raw, mark))
    cells = len(records[0]) if records else 0
    return sum(len(one) == cells for one in records) / len(records) if cells > 1 else 0.0


def _records(raw: bytes, mark: str) -> Iterator[list[str]]:
    lines = io.StringIO(raw[:_SAMPLE].decode(errors="ignore"), newline="")
    for number, record in enumerate(csv.reader(lines, delimiter=mark)):
        if number >= _RECORDS:
            return
        if record:
            yield record
