"""Which MLflow run holds which trial: a small file beside the journal.

Only a shortcut: the runs carry tags by which the ledger finds them again.
"""

import json
from typing import Any

from search.journal.store import Store

FILE = "ledger.json"


def load_links(store: Store) -> dict[str, Any]:
    """`{"uri", "parent", "runs": {number: {"run_id", "digest"}}}`; empty when lost."""
    try:
        found = json.loads((store.root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def save_links(store: Store, links: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    temporary = store.root / f".{FILE}.tmp"
    temporary.write_text(json.dumps(links), encoding="utf-8")
    temporary.replace(store.root / FILE)


def run_ids(store: Store) -> dict[int, str]:
    """Trial number -> run id."""
    runs = load_links(store).get("runs", {})
    return {int(number): run["run_id"] for number, run in runs.items()}
