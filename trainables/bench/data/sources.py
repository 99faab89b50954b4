"""Opening a data set: a hub id, a local file or folder, or an asset, as tables by split."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.bench.assets.fetch import ASSETS, fetch
from trainables.core.errors import DataError, near
from trainables.core.spec import DataSpec

Row: TypeAlias = dict[str, Any]
Splits: TypeAlias = dict[str, datasets.Dataset]

_READERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def open_splits(spec: DataSpec) -> Splits:
    """The data set's splits by name. DataError says what is wrong with the id or the files."""
    found = _open(spec)
    most = spec.rows
    if most is None:
        return found
    return {name: table.select(range(min(most, len(table)))) for name, table in found.items()}


def _open(spec: DataSpec) -> Splits:
    if spec.dataset.startswith("asset:"):
        return _asset(spec.dataset.removeprefix("asset:"), spec.subset)
    path = Path(spec.dataset).expanduser()
    try:
        with _quiet():
            return _local(path) if path.exists() else _hub(spec)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f'data set "{spec.dataset}" could not be opened: {error}. Allowed: a hub id, a local '
            f"file ({', '.join(_READERS)}), a folder, or asset:NAME"
        ) from error


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


def _local(path: Path) -> Splits:
    if path.is_file():
        return _files(path.suffix, [path])
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _named(datasets.load_from_disk(str(path)))
    suffixes = {each.suffix.lower() for each in path.rglob("*") if each.is_file()}
    if suffixes & _IMAGES:
        return _named(datasets.load_dataset("imagefolder", data_dir=str(path)))
    if suffixes == {".txt"}:
        return _files(".txt", sorted(path.rglob("*.txt")))
    return _named(datasets.load_dataset(str(path)))


def _files(suffix: str, paths: list[Path]) -> Splits:
    if suffix not in _READERS:
        raise ValueError(f'no reader for "{suffix}" files')
    options: dict[str, Any] = {}
    if suffix == ".txt":
        options["sample_by"] = _documents(paths)
    elif suffix == ".tsv":
        options["sep"] = "\t"
    names = [str(path.resolve()) for path in paths]
    return _named(datasets.load_dataset(_READERS[suffix], data_files=names, **options))


def _documents(paths: list[Path]) -> str:
    """What one document is: a file of many; in a single file a paragraph, or else a line."""
    if len(paths) > 1:
        return "document"
    return "paragraph" if "\n\n" in paths[0].read_text("utf-8") else "line"


def _hub(spec: DataSpec) -> Splits:
    if spec.rows is None:
        return _named(datasets.load_dataset(spec.dataset, spec.subset))
    streams = datasets.load_dataset(spec.dataset, spec.subset, streaming=True)
    return {name: _read(stream, spec.rows) for name, stream in streams.items()}


def _read(stream: datasets.IterableDataset, rows: int) -> datasets.Dataset:
    """The first rows of a stream, without downloading the rest."""
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
