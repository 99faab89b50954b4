"""The identity of a model: what it started from, and the effects of the stages since.

Two trials with one lineage hold the same model, whatever settings led there, so stats, retrained
weights and metrics are keyed by it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from trainables.core.cache import Cache, digest


@dataclass(frozen=True)
class Lineage:
    """A base model and the effects on it, in order."""

    base: str
    steps: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """16 hex digits."""
        return digest(self.base, *self.steps)

    def then(self, effect: Mapping[str, Any] | None) -> "Lineage":
        """The lineage after a stage; an effect of None changes nothing.

        A stage made of stages has their effects, in order, as `{"chain": [...]}`.
        """
        if effect is None:
            return self
        if "chain" in effect:
            return reduce(Lineage.then, effect["chain"], self)
        return Lineage(self.base, (*self.steps, json.dumps(effect, sort_keys=True, default=list)))


def fingerprint(folder: Path, cache: Cache) -> str:
    """The content of a model's folder; hashed once per state of its files (size, mtime, inode)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _IDENTITY)
    states = [(p.name, p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino) for p in files]
    key = digest(str(folder), states)
    return str(cache.json("fingerprints", key, lambda: [_content(files)])[0])


_IDENTITY = {".safetensors", ".bin", ".json"}


def _content(files: list[Path]) -> str:
    seen = hashlib.sha256()
    for path in files:
        seen.update(path.name.encode())
        with path.open("rb") as file:
            seen.update(hashlib.file_digest(file, "sha256").digest())
    return seen.hexdigest()[:16]


def code_version() -> str:
    """A digest of the code under trainables/: results of other code are not reused."""
    root = Path(__file__).resolve().parent.parent
    sources = sorted(root.rglob("*.py"))
    return digest(*[(str(p.relative_to(root)), p.read_text()) for p in sources])
