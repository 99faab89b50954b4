"""The driver's own needs: the ledger, the database, and disk for results."""

from collections.abc import Iterator
from pathlib import Path

from search.journal.store import Store, network_file_system, open_storage
from search.ledger.mirror import embedded, open_client, told, tracking_uri
from search.readiness.finding import Finding, Level
from search.readiness.nodes import ROOM, free_bytes
from search.study.database import redacted
from trainables.core.errors import UserError


def judge(store: Store) -> Iterator[Finding]:
    """What is right and wrong with the services a driver uses."""
    yield _ledger(store)
    yield _journal(store)
    free = free_bytes(store.root)
    level: Level = "ok" if free > ROOM else "warning"
    yield Finding("disk of the driver", level, f"{free / 1e9:.0f} GB free", "make room")


def _ledger(store: Store) -> Finding:
    uri = tracking_uri(store)
    if uri == embedded(store):
        said = f"the file beside the studies, {store.ledger}"
        return Finding("MLflow", "ok", said)
    try:
        with told(store):
            open_client(uri).search_experiments(max_results=1)
    except UserError as error:
        do = "the search would go on without it; rayduce sync brings it up to date later"
        return Finding("MLflow", "warning", str(error), do)
    return Finding("MLflow", "ok", f"answers at {redacted(uri)}")


def _journal(store: Store) -> Finding:
    kind = network_file_system(store.root)
    if store.database is None:
        if kind is not None:
            do = 'give the study [storage] database = "postgresql://..."'
            return Finding("journal", "warning", f"SQLite on {kind}, whose locks may fail", do)
        return Finding("journal", "ok", f"SQLite in {store.root}")
    try:
        open_storage(store, create=True).engine.dispose()
    except UserError as error:
        do = "check storage.database, $PGPASSWORD or ~/.pgpass, and that the server runs"
        return Finding("journal", "missing", str(error), do)
    return Finding("journal", "ok", f"answers at {redacted(store.database)}")


def local_paths(*named: str | None) -> tuple[str, ...]:
    """Those of these names that are paths, which every node has to see."""
    return tuple(name for name in named if name is not None and Path(name).is_absolute())
