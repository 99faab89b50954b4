"""The lock on a study: held by the driver that runs it, and seen by everybody else."""

import contextlib
import getpass
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

from search.journal.store import Store, _unreachable
from trainables.core.errors import UserError


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


GLANCE = 0.5  # seconds: `status` takes the lock for a moment to see whether it is held


@contextlib.contextmanager
def study_lock(store: Store) -> Iterator[None]:
    """Held while a study runs; the second launch is refused with the first one's name.

    The operating system (or the database server) frees it when the process dies.
    """
    from filelock import FileLock, Timeout

    store.create()
    lock = FileLock(store.lock, timeout=GLANCE, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise _busy(store.study, owner_name(store)) from None
    try:
        with _database_lock(store) if store.database else contextlib.nullcontext():
            store.owner.write_text(json.dumps(_me()), encoding="utf-8")
            yield
    finally:
        store.owner.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _database_lock(store: Store) -> Iterator[None]:
    """An advisory lock, for drivers on machines that share no folder."""
    import sqlalchemy
    import sqlalchemy.exc

    me = _me()
    name = f"rayduce {me['who']} since {me['since']}"[:63]  # PostgreSQL's longest
    engine = sqlalchemy.create_engine(
        store.url,
        connect_args={"application_name": name},
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.NullPool,
    )
    key = {"study": f"rayduce/{store.study}"}
    try:
        connection = engine.connect()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(store.database or "", error) from error
    with connection:
        if not connection.scalar(sqlalchemy.text(TAKE), key):
            raise _busy(store.study, connection.scalar(sqlalchemy.text(HOLDER), key))
        yield


TAKE = "select pg_try_advisory_lock(hashtext(:study), 20230)"


HOLDER = """
    select activity.application_name
    from pg_locks lock join pg_stat_activity activity using (pid)
    where lock.locktype = 'advisory' and lock.granted and lock.objsubid = 2
      and lock.classid::bigint = (hashtext(:study)::bigint & 4294967295) and lock.objid = 20230
"""


def _me() -> dict[str, str]:
    return {
        "who": f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}",
        "since": datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M"),
    }


def owner_name(store: Store) -> str | None:
    try:
        owner = json.loads(store.owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return f"{owner['who']} since {owner['since']}"


def _busy(study: str, owner: str | None) -> UserError:
    who = (owner or "another process").removeprefix("rayduce ")
    return UserError(
        f"study {study} is running already: {who}",
        do=f"watch it with `rayduce status {study}`, or stop it first",
    )
