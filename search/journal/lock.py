"""The lock on a study: held by the driver that runs it, and seen by everybody else."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from search.journal.fence import Driver, busy
from search.journal.store import Store, unreachable, write_text
from search.study.database import database_url
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import Engine

GLANCE = 0.5  # seconds: `status` takes the lock for a moment to see whether it is held
LONGEST = 63  # bytes of a name in PostgreSQL


def driver_of(store: Store) -> str | None:
    """`user@host pid 4711 since ...` of the driver that holds the study's lock, or None."""
    owner = owner_name(store)
    if _held(store):
        return owner or "another process"
    return _holder(store) if store.database else None


def _held(store: Store) -> bool:
    from filelock import FileLock, Timeout

    if not store.lock.exists():
        return False
    lock = FileLock(store.lock, timeout=0)
    try:
        with lock:
            return False  # a driver that died left its name behind
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False


def owner_name(store: Store) -> str | None:
    """Who wrote its name beside the lock; None where the file is not there, or is not whole."""
    try:
        owner = json.loads(store.owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = Driver.read(owner)
    return None if found is None else str(found)


@contextlib.contextmanager
def study_lock(store: Store) -> Iterator[Driver]:
    """Held while a study runs; the second launch is refused with the first one's name.

    The operating system (or the database server) frees it when the process dies.
    """
    from filelock import FileLock, Timeout

    store.create()
    me, lock = Driver(), FileLock(store.lock, timeout=GLANCE, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise busy(store.study, owner_name(store)) from None
    except OSError as error:
        do = "choose another folder with --storage"
        raise UserError(f"cannot write to {store.root}: {error.strerror}", do=do) from error
    try:
        with _database_lock(store, me) if store.database else contextlib.nullcontext():
            write_text(store.owner, json.dumps(asdict(me)))
            yield me
    finally:
        with contextlib.suppress(OSError):  # the folder may have been deleted
            store.owner.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def _database_lock(store: Store, me: Driver) -> Iterator[None]:
    """An advisory lock, for drivers on machines that share no folder."""
    import sqlalchemy
    import sqlalchemy.exc

    name = f"rayduce {me}".encode()[:LONGEST].decode(errors="ignore")
    engine, key = _engine(store, name), {"study": f"rayduce/{store.study}"}
    try:
        connection = engine.connect()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise unreachable(store.database or "", error) from error
    try:
        if not connection.scalar(sqlalchemy.text(TAKE), key):
            holder = connection.scalar(sqlalchemy.text(HOLDER), key)
            raise busy(store.study, str(holder).removeprefix("rayduce ") if holder else None)
        yield
    finally:
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # the server went away meanwhile
            connection.close()


def _holder(store: Store) -> str | None:
    """Who holds the lock in the database: a driver that shares no folder with this machine."""
    import sqlalchemy
    import sqlalchemy.exc

    try:
        with _engine(store, "rayduce status").connect() as connection:
            key = {"study": f"rayduce/{store.study}"}
            found = connection.scalar(sqlalchemy.text(HOLDER), key)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise unreachable(store.database or "", error) from error
    return None if found is None else str(found).removeprefix("rayduce ")


def _engine(store: Store, name: str) -> "Engine":
    import sqlalchemy

    from search.journal.store import ANSWER

    return sqlalchemy.create_engine(
        database_url(store.database or ""),
        connect_args={"application_name": name, "connect_timeout": ANSWER},
        isolation_level="AUTOCOMMIT",
        poolclass=sqlalchemy.NullPool,
    )


TAKE = "select pg_try_advisory_lock(hashtext(:study), 20230)"


HOLDER = """
    select activity.application_name
    from pg_locks lock join pg_stat_activity activity using (pid)
    where lock.locktype = 'advisory' and lock.granted and lock.objsubid = 2
      and lock.classid::bigint = (hashtext(:study)::bigint & 4294967295) and lock.objid = 20230
      and lock.database = (select oid from pg_database where datname = current_database())
"""
