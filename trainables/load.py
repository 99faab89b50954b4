"""The one door to exported models, whatever their form:

    from trainables.load import load
    model = load("folder")

Exported folders name this line, so it never moves. A form is told by a file in the folder.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.core.errors import ModelError

# The file that marks a form -> what loads such a folder; asked in this order.
FORMS: Mapping[str, str] = {
    "routed.json": "trainables.routing.routed_model:RoutedModel.load",
    "plugged.json": "trainables.plugin.model:load_plugged",
    "exact.json": "trainables.bench.models.nonuniform:load_exact",
    "packed.json": "trainables.bench.models.packed.form:load_packed",
    "config.json": "trainables.load:load_plain",
}


def load(folder: str | Path) -> Any:
    """A model as it was exported, in evaluation mode, on the CPU, in the dtype it was saved in.

    Raises ModelError for a folder that holds none of the forms.
    """
    place = Path(folder).expanduser()
    for marker, loader in FORMS.items():
        if (place / marker).is_file():
            return _resolved(loader)(place)
    forms = ", ".join(FORMS)
    raise ModelError("no exported model there", got=str(folder), allowed=f"a folder with {forms}")


def load_plain(folder: Path) -> Any:
    """A model that transformers alone can build, with the very head it was saved with.

    Raises ModelError where the config names no class of the installed transformers.
    """
    import transformers

    named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    head = getattr(transformers, str((named or [""])[0]), None)
    if head is None:
        do = f"transformers {transformers.__version__} has no such class"
        raise ModelError(f"{folder}: config.json, architectures", got=named, do=do)
    return head.from_pretrained(folder).eval()


def _resolved(name: str) -> Callable[[Path], Any]:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    loader: Callable[[Path], Any] = found
    return loader
