"""Who runs a study right now, as seen from another process."""

from search.journal.store import HOLDER, Store, owner_name


def driver_of(store: Store) -> str | None:
    """`user@host pid 4711 since ...` of the driver that holds the study's lock, or None."""
    owner = owner_name(store)
    if owner is not None and _held(store):
        return owner
    return _holder(store) if store.database else None


def _held(store: Store) -> bool:
    from filelock import FileLock, Timeout

    lock = FileLock(store.lock, timeout=0)
    try:
        with lock:
            return False  # a driver that died left its name behind
    except Timeout:
        return True


def _holder(store: Store) -> str | None:
    """Who holds the lock in the database: a driver that shares no folder with this machine."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(store.url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        key = {"study": f"rayduce/{store.study}"}
        found = connection.scalar(sqlalchemy.text(HOLDER), key)
    return None if found is None else str(found).removeprefix("rayduce ")
