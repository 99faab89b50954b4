"""What trials share on disk: calibration stats, recovered models, metrics.

Every entry is one file, written under a temporary name and renamed, so that a reader sees all of
it or nothing; a lock beside it lets one worker compute what others wait for. A process holds a
shared lock on each entry it uses until `release`, and eviction passes over held entries. An entry
that cannot be read all the same, as a disk or a copy tore it, counts as not there.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from trainables.core.alone import idle

T = TypeVar("T")
KEEP = frozenset({"checkpoints"})  # kinds that eviction never touches: unfinished work
FIRST = "states"  # the kind that goes first, and has no locks: what is soon computed again


def digest(*parts: object) -> str:
    """16 hex digits that identify plain data."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that identify named tensors by their bytes; those that are made of others, as
    torchao's are, by these and by how."""
    seen = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        if is_traceable_wrapper_subclass(value):
            inner, how = value.__tensor_flatten__()
            seen.update(f"{name} {type(value).__name__} {how}".encode())
            seen.update(digest_tensors({part: getattr(value, part) for part in inner}).encode())
            continue
        value = value.contiguous()
        seen.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        seen.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:16]


class Cache:
    """A folder of entries, `<kind>/<key>.<suffix>`, kept under a size limit.

    Args:
        folder: shared by all workers where possible.
        limit_gb: least recently used entries beyond this many gigabytes are deleted.
    """

    def __init__(self, folder: Path, limit_gb: float = 20.0) -> None:
        self.folder = folder
        self.limit = int(limit_gb * 1e9)
        self._held: dict[Path, int] = {}
        self._recent: dict[Path, dict[str, Tensor]] = {}

    def path(self, kind: str, key: str, suffix: str) -> Path:
        """Where an entry lives; its folder exists."""
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{key}{suffix}"

    def tensors(
        self, kind: str, key: str, make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Named tensors, computed by `make` the first time; memory-mapped, never write in them."""
        path = self.path(kind, key, ".safetensors")

        def write(target: Path) -> None:
            made = {name: value.detach().cpu().contiguous() for name, value in make().items()}
            save_file(made, target)

        if path in self._recent:  # and held
            return self._recent[path]
        found = self._ensure(path, write, _read_tensors)
        if kind == "stats":
            self._recent[path] = found
        return found

    def find_tensors(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Named tensors that are there already, held from now on, or None."""
        path = self.path(kind, key, ".safetensors")
        self._hold(path)
        with contextlib.suppress(Missing):
            return _read(path, _read_tensors)
        return None

    def json(self, kind: str, key: str, make: Callable[[], Any]) -> Any:
        """Plain data, computed by `make` the first time."""
        path = self.path(kind, key, ".json")
        return self._ensure(path, lambda target: _write(target, json.dumps(make())), _read_json)

    def find(self, kind: str, key: str) -> Any | None:
        """A json entry, or None."""
        with contextlib.suppress(Missing):
            return _read(self.path(kind, key, ".json"), _read_json)
        return None

    def store(self, kind: str, key: str, value: Any) -> None:
        """Write a json entry, replacing an older one."""
        write_durably(self.path(kind, key, ".json"), json.dumps(value))

    def release(self) -> None:
        """Let go of the entries held since the last call: the trial that used them is over."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
        self._recent.clear()

    def _ensure(self, path: Path, write: Callable[[Path], None], read: Callable[[Path], T]) -> T:
        self._hold(path)
        with contextlib.suppress(Missing):
            return _read(path, read)
        with path.with_name(f".{path.name}.making.lock").open("w") as making:
            with idle():
                fcntl.flock(making, fcntl.LOCK_EX)  # let go when made, not at `release`
            with contextlib.suppress(Missing):
                return _read(path, read)
            self._make(path, write)
        return _read(path, read)

    def _make(self, path: Path, write: Callable[[Path], None]) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._evict()

    def _hold(self, path: Path) -> None:
        if path not in self._held:
            lock = path.with_name(f".{path.name}.lock")
            self._held[path] = os.open(lock, os.O_CREAT | os.O_RDWR)
            fcntl.flock(self._held[path], fcntl.LOCK_SH)

    def _evict(self) -> None:
        entries = []
        for entry in self.folder.glob("*/*"):
            if entry.parent.name in KEEP or entry.name.endswith((".lock", ".tmp")):
                continue
            with contextlib.suppress(FileNotFoundError):  # states go without a lock
                about = entry.stat()
                order = (entry.parent.name != FIRST, about.st_mtime)
                entries.append((order, about.st_size, entry))
        excess = sum(size for _, size, _ in entries) - self.limit
        for _, size, entry in sorted(entries):
            if excess <= 0:
                return
            if entry not in self._held and _delete_unheld(entry):
                excess -= size


class Missing(Exception):
    """An entry was never stored, or evicted, or is torn."""


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        os.utime(path)
        return read(path)
    except (FileNotFoundError, ValueError, SafetensorError) as error:
        raise Missing(path) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(path)
    return found


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _delete_unheld(entry: Path) -> bool:
    if entry.parent.name == FIRST:
        entry.unlink(missing_ok=True)
        return True
    lock = entry.with_name(f".{entry.name}.lock")
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entry.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _write(path: Path, content: str | bytes) -> None:
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def write_durably(path: Path, content: str | bytes) -> None:
    """Write a file so that after a crash it is there whole, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _write(temporary, content)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
