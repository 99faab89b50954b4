"""Where a study lives: its folder, its journal in Optuna's storage, and the lock on it.

    runs/<study>/study.db  study.toml  results/  lock  owner.json
    runs/cache/  runs/mlflow.db  runs/mlartifacts/       shared by the studies of a folder

The journal is SQLite by default (one writer) or PostgreSQL by URL.
"""

import contextlib
import logging
import time
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import redacted
from search.study.schema import database_url
from trainables.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

PATIENCE = 60  # seconds to wait while another process writes to the same SQLite file
ELBOWS = 3  # times to try again where two processes open a new journal at once
NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs")


@dataclass(frozen=True)
class Store:
    """One study's places. `database` is None where the journal is the folder's own SQLite file."""

    folder: Path
    study: str
    database: str | None = None

    @property
    def root(self) -> Path:
        """The study's own folder."""
        return self.folder / self.study

    @property
    def journal(self) -> Path:
        """The SQLite file; unused with a database."""
        return self.root / "study.db"

    @property
    def url(self) -> str:
        """What Optuna opens."""
        return database_url(self.database) if self.database else f"sqlite:///{self.journal}"

    @property
    def toml(self) -> Path:
        """The study as launched last."""
        return self.root / "study.toml"

    @property
    def results(self) -> Path:
        """One file per trial, written by its worker."""
        return self.root / "results"

    @property
    def lock(self) -> Path:
        """Held by the driver."""
        return self.root / "lock"

    @property
    def owner(self) -> Path:
        """Who holds the lock."""
        return self.root / "owner.json"

    @property
    def cache(self) -> Path:
        """Statistics and recovered models, shared by all studies."""
        return self.folder / "cache"

    @property
    def ledger(self) -> Path:
        """MLflow's database."""
        return self.folder / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's files."""
        return self.folder / "mlartifacts"

    def create(self) -> None:
        """Make the folders."""
        for folder in (self.results, self.cache):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                do = "choose another folder with --storage"
                raise UserError(f"cannot write to {folder}: {error.strerror}", do=do) from error


def find_store(folder: Path | str, study: str, database: str | None = None) -> Store:
    """An existing study by name; its saved file says where its journal is."""
    root = Path(folder).expanduser().absolute()
    store = Store(root, study, database)
    if database is None and store.toml.is_file():
        saved = tomllib.loads(store.toml.read_text(encoding="utf-8"))
        store = Store(root, study, saved.get("storage", {}).get("database"))
    known = study_names(root, store.database)
    if study in known:
        return store
    where = redacted(database) if database else str(root)
    allowed = ", ".join(known) or "nothing yet: launch a study first"
    hint = did_you_mean(study, known)
    raise UserError(f"no such study in {where}", got=study, allowed=allowed, do=hint)


def study_names(folder: Path | str, database: str | None = None) -> list[str]:
    """The studies of a folder, or of a database."""
    if database:
        import optuna

        storage = _open(database_url(database), database)
        names = sorted(optuna.get_all_study_names(storage))
        storage.engine.dispose()
        return names
    found = [*Path(folder).glob("*/study.db"), *Path(folder).glob("*/study.toml")]
    return sorted({path.parent.name for path in found})


def open_storage(store: Store, *, create: bool = False) -> "RDBStorage":
    """The study's journal. Without `create`, a study that does not exist is an error."""
    if create:
        store.create()
    elif store.database is None and not store.journal.is_file():
        find_store(store.folder, store.study)
        raise UserError(f"study {store.study} has no journal yet", do="launch it first")
    return _open(store.url, store.database)


def _open(url: str, database: str | None) -> "RDBStorage":
    import optuna
    import sqlalchemy.exc

    logging.getLogger("alembic").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sqlite = url.startswith("sqlite")
    engine = {"connect_args": {"timeout": PATIENCE}} if sqlite else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(ELBOWS):
                with contextlib.suppress(sqlalchemy.exc.OperationalError):
                    return optuna.storages.RDBStorage(url, engine_kwargs=engine)
                time.sleep(0.2)  # another process may be making the tables right now
            return optuna.storages.RDBStorage(url, engine_kwargs=engine)
    except ImportError as error:
        raise _no_driver() from error
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        raise _unreachable(database or url, error) from error  # RuntimeError: another schema


def network_file_system(path: Path) -> str | None:
    """The kind of network file system a path lies on, where SQLite's locks cannot be trusted."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return None
    rows = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    here = path.expanduser().absolute()
    above = [row for row in rows if here.is_relative_to(row[1].replace("\\040", " "))]
    kind = max(above, key=lambda row: len(row[1]))[2] if above else ""
    return kind if kind.startswith(NETWORK) else None


def _no_driver() -> UserError:
    return UserError(
        "storage.database: the PostgreSQL driver is not installed",
        do='pip install -e ".[postgres]"',
    )


def _unreachable(database: str, error: Exception) -> UserError:
    reason = str(getattr(error, "orig", error)).splitlines()[0]
    return UserError(f"cannot open the journal at {redacted(database)}: {reason}")
