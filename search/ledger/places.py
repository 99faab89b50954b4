"""Where the embedded ledger keeps its files: MLflow notes absolute paths, and folders get moved."""

from typing import TYPE_CHECKING

from search.journal.store import Store, file_url

if TYPE_CHECKING:
    from sqlalchemy import Connection

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def rehome(store: Store, old: str) -> bool:
    """Let the ledger's file know that its artifacts lie beside it; whether they lay elsewhere.

    Args:
        old: where the experiment says they are.
    """
    import sqlalchemy

    new = store.artifacts.as_uri()
    if old == new or not old.endswith(f"/{store.artifacts.name}"):
        return False
    engine = sqlalchemy.create_engine(file_url(store.ledger), poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        for table, column in PLACES:
            _replace(connection, table, column, old, new)
    return True


def _replace(connection: "Connection", table: str, column: str, old: str, new: str) -> None:
    import sqlalchemy as sa

    place: sa.ColumnClause[str] = sa.column(column)
    rest = sa.func.substr(place, len(old) + 1)
    under = sa.or_(place == old, sa.func.substr(place, 1, len(old) + 1) == f"{old}/")
    connection.execute(
        sa.update(sa.table(table, place)).where(under).values({column: sa.literal(new) + rest})
    )
