"""What a model computed on the way, kept as long as there is room: speed, and nothing but speed.

Named tensors under a key, one file each, which all workers of a machine map into memory: the pages
are the system's, who drops them first when memory runs short. There are no locks. A file is written
under another name and renamed, so a reader finds all of it or nothing; who has mapped one keeps it
though it is deleted. What cannot be written is not kept.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.core.cache import FIRST, Cache

SUFFIX = ".safetensors"
SHARE = 4  # of the cache's limit, one part in so many is for these


class States:
    """A folder of kept tensors, the least recently used of which go when they are too many.

    Args:
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._unseen = limit  # bytes written since the folder was last looked through

    @staticmethod
    def of(cache: Cache) -> "States":
        """Those that lie in a cache, and go before all else in it."""
        return States(cache.folder / FIRST, cache.limit // SHARE)

    def has(self, key: str) -> bool:
        """Whether something is kept under a key."""
        return self._path(key).exists()

    def find(self, key: str) -> dict[str, Tensor] | None:
        """What is kept under a key, on the CPU, or None; writing in it changes no file."""
        path = self._path(key)
        try:
            os.utime(path)
            found: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError):  # never kept, or gone by now
            return None
        return found

    def keep(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key, if there is room."""
        held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        size = sum(value.nbytes for value in held.values())
        if size > self.limit:
            return
        path = self._path(key)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(held, temporary)
            temporary.replace(path)
        except (OSError, SafetensorError):  # a disk that is full
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return
        self._unseen += size
        if self._unseen > self.limit // 16:
            self._unseen = 0
            self._evict()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _evict(self) -> None:
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        excess = sum(size for _, size, _ in found) - self.limit * 15 // 16
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            excess -= size
