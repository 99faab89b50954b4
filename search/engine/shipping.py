"""What the nodes of a cluster get of the driver's code: our packages, and a user's own modules.

Nothing else in the clone travels: neither results nor exported models. A user's package travels
whole, a single file with the files it imports.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from search.study.schema import Study
from trainables.core.lineage import own_files
from trainables.core.places import CHECKOUT

OURS = ("search", "trainables", "spaces")
SKIPPED = shutil.ignore_patterns("__pycache__", ".*", "*.pyc", "*.safetensors", "*.pt", "*.bin")


@contextlib.contextmanager
def shipment(modules: Iterable[str] = ()) -> Iterator[Path]:
    """A folder of all that travels, while open."""
    with tempfile.TemporaryDirectory(prefix="rayduce-code-") as folder:
        root = Path(folder)
        for package in OURS:
            shutil.copytree(CHECKOUT / package, root / package, ignore=SKIPPED)
        for module in modules:
            for file in own_files(module):
                _add(file, root)
        yield root


def users_modules(study: Study) -> list[str]:
    """The modules that a study names and that are not ours."""
    space, sampler = study.space.name, study.sampler.name
    named = [*study.metrics.values(), *(one for one in (space, sampler) if ":" in one)]
    bare = [space] if "." in space and ":" not in space else []
    modules = {name.partition(":")[0] for name in [*named, *bare]}
    return sorted(name for name in modules if name.partition(".")[0] not in OURS)


def _add(file: Path, root: Path) -> None:
    """Put a file where it is imported from, seen from every folder of the search path."""
    for place in _import_roots(file):
        inside = file.relative_to(place)
        top = place / inside.parts[0]
        if (top / "__init__.py").is_file():
            shutil.copytree(top, root / top.name, ignore=SKIPPED, dirs_exist_ok=True)
        elif not (root / inside).exists():
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, root / inside)
            _add_parents(inside, place, root)


def _add_parents(inside: Path, place: Path, root: Path) -> None:
    """The `__init__.py` of the packages a file lies in."""
    for parent in inside.parents[:-1]:
        if (place / parent / "__init__.py").is_file():
            shutil.copy2(place / parent / "__init__.py", root / parent / "__init__.py")


def _import_roots(file: Path) -> list[Path]:
    if any(file.is_relative_to(CHECKOUT / package) for package in OURS):
        return []
    places = {Path(entry or ".").resolve() for entry in sys.path}
    return sorted(place for place in places if file.is_relative_to(place) and place != place.parent)
