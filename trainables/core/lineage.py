"""The identity of a model: what it started from, and the effects of the stages since.

Two trials with one lineage hold the same model, whatever settings led there, so stats, retrained
weights and metrics are keyed by it. An effect names the class that describes it and, where code
of the user's own had a part in it, the version of that code: another method with an effect that
looks the same, or the same one corrected, is another lineage.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trainables.core.cache import Cache, digest
from trainables.core.places import CHECKOUT


class Effect:
    """What a stage made of a model, as a frozen dataclass of plain data.

    Equal effects on equal models give equal models, and another model another effect.
    """

    def data(self) -> dict[str, Any]:
        """For records: the class, then its fields."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {"effect": type(self).__name__, **fields}


@dataclass(frozen=True)
class Lineage:
    """A base model and the effects on it, in order."""

    base: str
    steps: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """16 hex digits."""
        return digest(self.base, *self.steps)

    def then(self, effects: Iterable[Effect], source: str = "") -> "Lineage":
        """The lineage after a stage; without effects it is the same.

        Args:
            source: the version of the stage's code, where that is a user's own.
        """
        steps = [
            {"class": importable_name(type(one)), "code": own_version(type(one)), "source": source}
            | {"fields": one.data()}
            for one in effects
        ]
        texts = [json.dumps(step, sort_keys=True, default=list) for step in steps]
        return Lineage(self.base, (*self.steps, *texts))


def fingerprint(folder: Path, cache: Cache) -> str:
    """The content of a model's folder; hashed once per state of its files (size, mtime, inode)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _IDENTITY)
    states = [(p.name, p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino) for p in files]
    key = digest(str(folder), states)
    return str(cache.json("fingerprints", key, lambda: [_content(files)])[0])


_IDENTITY = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}


def _content(files: list[Path]) -> str:
    seen = hashlib.sha256()
    for path in files:
        seen.update(path.name.encode())
        with path.open("rb") as file:
            seen.update(hashlib.file_digest(file, "sha256").digest())
    return seen.hexdigest()[:16]


# -- code ----------------------------------------------------------------------------------------


def importable_name(thing: Any) -> str:
    """`package.module:name`, by the shortest package that gives it out under its own name."""
    parts = str(thing.__module__).split(".")
    name = str(thing.__qualname__)
    packages = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    for module in packages:
        if getattr(sys.modules.get(module), name, None) is thing:
            return f"{module}:{name}"
    return f"{thing.__module__}:{name}"


def code_version() -> str:
    """A digest of the code under trainables/: results of other code are not reused."""
    root = CHECKOUT / "trainables"
    sources = sorted(root.rglob("*.py"))
    return digest(*[(str(p.relative_to(root)), p.read_text()) for p in sources])


@cache
def code() -> str:
    """`code_version`, read once per process."""
    return code_version()


def source_version(thing: Any) -> str:
    """The code under trainables/, the name of a class or function, and the version of a user's."""
    return digest(code(), importable_name(thing), own_version(thing))


def own_version(thing: Any) -> str:
    """A digest of the user's own code that a class or function runs: its name, the module that
    defines it, those of its base classes, and the modules these import, as far as they came with
    neither Python nor a package. Empty for our own code, which `code` covers.

    Read once per process, which goes on with the code that it has loaded.
    """
    version: str = _own_version(thing)
    return version


@cache
def _own_version(thing: Any) -> str:
    bases = inspect.getmro(thing) if inspect.isclass(thing) else (thing,)
    names = {str(getattr(one, "__module__", "")) for one in bases}
    files = sorted({path for name in names for path in own_files(name)})
    return digest(importable_name(thing), *map(_text, files)) if files else ""


@cache
def reference_version(where: str) -> str:
    """The same for what `package.module:name` leads to, of whatever kind: two functions that one
    factory made are told apart by their names alone. Read once per process, too."""
    files = sorted(own_files(where.partition(":")[0]))
    return digest(code(), where, *map(_text, files))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def own_files(name: str) -> frozenset[Path]:
    """The files of a module and of all that it imports, as far as they are a user's own: installed
    with neither Python nor a package, and not under trainables/."""
    found: dict[Path, None] = {}
    waiting = [name]
    while waiting:
        path = _own_file(module := waiting.pop())
        if path is not None and path not in found:
            found[path] = None
            waiting += _imported(path, module)
    return frozenset(found)


def _own_file(name: str) -> Path | None:
    """Where a module lies, found without importing anything; None where it is not the user's."""
    top, *rest = name.split(".")
    loaded = getattr(sys.modules.get(name), "__file__", None)
    for path in [Path(loaded)] if loaded else _places(top, rest):
        if path.is_file() and path.suffix == ".py":
            path = path.resolve()
            return None if _installed(path) else path
    return None


def _installed(path: Path) -> bool:
    """Whether a file came with Python, with a package, or with us."""
    packages = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(packages) or any(path.is_relative_to(place) for place in _not_own())


def _places(top: str, rest: list[str]) -> Iterator[Path]:
    """Where `top.rest` may lie: as a module, or as a package."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # an optional import that is not there
        return
    if spec is None:
        return
    if not rest and spec.origin:
        yield Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        yield from (place.with_name(f"{place.name}.py"), place / "__init__.py")


@cache
def _not_own() -> tuple[Path, ...]:
    """Where Python and our own code lie."""
    folders = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    return (CHECKOUT / "trainables", *folders)


def _imported(path: Path, name: str) -> Iterator[str]:
    """The absolute names of all that a module's file imports, wherever in it."""
    parts = name.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]  # which may have no such file
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a file that is named by an import which never happens
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
