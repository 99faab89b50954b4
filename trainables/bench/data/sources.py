"""Opening a data set: a hub id, a local file or folder, or an asset, as tables by split."""

import glob
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.bench.assets.fetch import ASSETS, fetch
from trainables.bench.data.files import read_files
from trainables.core.errors import DataError, near
from trainables.core.spec import DATA_FILES, DataSpec, data_file

Row: TypeAlias = dict[str, Any]
Splits: TypeAlias = dict[str, datasets.Dataset]
Table = TypeVar("Table", datasets.Dataset, datasets.IterableDataset)

_ROWS_READ = 50_000  # of a stream, to draw from: data sorted by class is to give more than one
_IMAGES_READ = 5_000
_FILES_PARTED = 32  # more files than that are read as wholes: where a part lies, each file must say
_BROKEN = (
    datasets.exceptions.DatasetsError,
    OSError,
    ValueError,
    EOFError,
    StopIteration,
    zlib.error,
)
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def open_splits(spec: DataSpec) -> Splits:
    """The data set's splits by name. DataError says what is wrong with the id or the files."""
    found = {name: _packed(table) for name, table in _open(spec).items()}
    if spec.rows is None:
        return found
    with _quiet():
        return {name: _some(table, spec) for name, table in found.items()}


def _packed(table: Table) -> Table:
    """The same with its images as files: one that cannot be read is a row's trouble, no table's."""
    for name, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


def _some(table: datasets.Dataset, spec: DataSpec) -> datasets.Dataset:
    """So many rows from all over the table, in its order: data may be sorted by class.

    Which ones depends on nothing but their number. Running text keeps its beginning.
    """
    most = spec.rows or len(table)
    if len(table) <= most:
        return table
    if spec.windows == "joined":
        return table.select(range(most))
    picked = table.select(sorted(random.Random(0).sample(range(len(table)), most)))
    return picked.flatten_indices()  # once, here: every look at a column would do it


def _open(spec: DataSpec) -> Splits:
    if spec.dataset.startswith("asset:"):
        return _asset(spec.dataset.removeprefix("asset:"), spec.subset)
    path = Path(spec.dataset).expanduser()
    try:
        with _quiet():
            return _local(path, spec) if path.exists() else _hub(spec)
    except _BROKEN as error:
        raise DataError(
            f'data set "{spec.dataset}" could not be opened: {_told(error)}. Allowed: a hub id, '
            f"a local file ({', '.join(DATA_FILES)}), a folder, or asset:NAME"
        ) from error


def _told(error: BaseException) -> str:
    """What went wrong in the first place: `datasets` says only that it did."""
    while isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, StopIteration):
        return "there is nothing in it"
    return str(error).strip().rstrip(".") or type(error).__name__


def _asset(name: str, part: str | None) -> Splits:
    if name in ASSETS and ASSETS[name].kind != "data":
        known = sorted(key for key, row in ASSETS.items() if row.kind == "data")
        raise DataError(f"asset:{name} is a model; data sets are {', '.join(known)}")
    parts = {path.stem: path for path in sorted(fetch(name).glob("*.parquet"))}
    if part is not None and part not in parts:
        raise DataError(
            f'asset:{name} has no part "{part}"{near(part, parts)}; it has {", ".join(parts)}'
        )
    chosen = parts.values() if part is None else [parts[part]]
    table = pa.concat_tables([pq.read_table(path) for path in chosen])
    return {"train": datasets.Dataset(datasets.table.InMemoryTable(table))}


def _local(path: Path, spec: DataSpec) -> Splits:
    if path.is_file():
        return {"train": read_files([path], spec)}
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _named(datasets.load_from_disk(str(path)))
    files = [each for each in sorted(path.rglob("*")) if each.is_file()]
    if {each.suffix.lower() for each in files} & _IMAGES:
        return _named(datasets.load_dataset("imagefolder", data_dir=glob.escape(str(path))))
    if files and all(data_file(each.name) == ".txt" for each in files):
        return {"train": read_files(files, spec)}
    if glob.has_magic(str(path)):  # which `datasets` takes for a pattern
        do = "rename it, or name a file in it"
        raise DataError("a folder's path holds one of * ? [", got=str(path), do=do)
    builder = datasets.load_dataset_builder(str(path), spec.subset)
    parts = {str(split): [Path(one) for one in names] for split, names in _files_of(builder)}
    if not all(data_file(one.name) for names in parts.values() for one in names):
        return _named(datasets.load_dataset(str(path), spec.subset))
    return {split: read_files(names, spec) for split, names in parts.items()}


def _files_of(builder: datasets.DatasetBuilder) -> list[tuple[Any, list[str]]]:
    """The files of each split, as their names and folders tell, or the folder's card."""
    return list((builder.config.data_files or {}).items())


def _hub(spec: DataSpec) -> Splits:
    if spec.rows is None:
        return _named(datasets.load_dataset(spec.dataset, spec.subset))
    streams = datasets.load_dataset(spec.dataset, spec.subset, streaming=True)
    return {name: _read(stream, spec) for name, stream in streams.items()}


def _read(stream: datasets.IterableDataset, spec: DataSpec) -> datasets.Dataset:
    """Some rows of a stream, without downloading the rest: drawn from all over files that come in
    parts (Parquet), else from the first rows of its files. Running text keeps its beginning."""
    scattered = spec.windows != "joined"
    if scattered and stream.num_shards <= _FILES_PARTED:
        stream = stream.reshard()
    rows, stream = spec.rows or 0, _packed(stream)
    if scattered:
        buffer = _IMAGES_READ if spec.task == "image-classification" else _ROWS_READ
        stream = stream.shuffle(seed=0, buffer_size=max(buffer, rows))
    return datasets.Dataset.from_list(list(stream.take(rows)), features=stream.features)


def _named(found: datasets.Dataset | datasets.DatasetDict) -> Splits:
    return {"train": found} if isinstance(found, datasets.Dataset) else dict(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars for reading a local file; they would run through a worker's log."""
    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()
