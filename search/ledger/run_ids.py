"""Which MLflow run holds which trial: a small file beside the journal.

Only a shortcut: the runs carry tags by which the ledger finds them again.
"""

import json
import re
from typing import Any

from search.journal.store import Store, write_text

FILE = "ledger.json"
RUN_ID = re.compile("[0-9a-f]{32}")  # as MLflow makes them


def load_links(store: Store) -> dict[str, Any]:
    """`{"uri", "experiment", "parent", "runs": {number: {"run_id", "front"}}}`.

    Empty when lost, or when it is not that: the runs are found again by their tags.
    """
    try:
        found = json.loads((store.root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if _whole(found) else {}


def _whole(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("runs"), dict):
        return False
    texts = [found.get("uri"), found.get("experiment"), found.get("parent")]
    for number, run in found["runs"].items():
        if not number.rpartition("-")[2].isdecimal() or not isinstance(run, dict):
            return False
        texts += [run.get("run_id"), run.get("front")]
    return all(isinstance(text, str) for text in texts)


def save_links(store: Store, links: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    write_text(store.root / FILE, json.dumps(links))


def run_ids(store: Store) -> dict[int, str]:
    """Trial number -> run id."""
    runs = load_links(store).get("runs", {})
    return {int(number): run["run_id"] for number, run in runs.items() if number.isdecimal()}
