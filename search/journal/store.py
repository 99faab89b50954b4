"""Where a study lives: its folder, its journal in Optuna's storage, and the lock on it.

    runs/<study>/study.db  study.toml  results/  lock  owner.json
    runs/cache/  runs/mlflow.db  runs/mlartifacts/       shared by the studies of a folder

The journal is SQLite by default (one writer) or PostgreSQL by URL.
"""

import contextlib
import logging
import os
import time
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.journal.patience import Patience, cause
from search.study.database import database_url, redacted
from search.study.schema import Study
from trainables.core.errors import UserError, did_you_mean
from trainables.core.spec import SLUG

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import URL

LOCKED = 5  # seconds that SQLite waits by itself while another process writes to the same file
ANSWER = 10  # seconds to connect to a server
OPEN_ATTEMPTS = 3  # where two processes open a new journal at once
NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs")


@dataclass(frozen=True)
class Store:
    """One study's places. `database` is None where the journal is the folder's own SQLite file."""

    folder: Path
    study: str
    database: str | None = None

    @classmethod
    def of(cls, study: Study) -> "Store":
        """Where a study says that it lives."""
        return cls(Path(study.storage.folder), study.name, study.storage.database)

    @property
    def root(self) -> Path:
        """The study's own folder."""
        return self.folder / self.study

    @property
    def journal(self) -> Path:
        """The SQLite file; unused with a database."""
        return self.root / "study.db"

    @property
    def url(self) -> "URL":
        """What Optuna opens."""
        return database_url(self.database) if self.database else file_url(self.journal)

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


def file_url(path: Path) -> "URL":
    """An SQLite file's URL, whatever characters its path has."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path))


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        do = "make room, or choose another folder with --storage"
        raise UserError(f"cannot write {path}: {error.strerror}", do=do) from error


def find_store(folder: Path | str, study: str, database: str | None = None) -> Store:
    """An existing study by name; its saved file says where its journal is."""
    root = Path(folder).expanduser().absolute()
    store = Store(root, study, database)
    if database is None:
        store = Store(root, study, _saved_database(store.toml))
    known = study_names(root, store.database)
    if study in known:
        return store
    where = redacted(database) if database else str(root)
    allowed = ", ".join(known) or "nothing yet: launch a study first"
    hint = did_you_mean(study, known)
    raise UserError(f"no such study in {where}", got=study, allowed=allowed, do=hint)


def _saved_database(toml: Path) -> str | None:
    """Where a saved study says its journal is; None where the file is not there, or torn."""
    try:
        saved = tomllib.loads(toml.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = saved.get("storage", {})
    database = found.get("database") if isinstance(found, dict) else None
    return database if isinstance(database, str) else None


def study_names(folder: Path | str, database: str | None = None) -> list[str]:
    """The studies of a folder, or of a database."""
    if database:
        import optuna

        storage = _open(database_url(database))
        names = sorted(optuna.get_all_study_names(storage))
        storage.engine.dispose()
        return [name for name in names if SLUG.fullmatch(name)]  # each becomes a folder
    found = [*Path(folder).glob("*/study.db"), *Path(folder).glob("*/study.toml")]
    return sorted({path.parent.name for path in found})


def open_storage(store: Store, *, create: bool = False) -> "RDBStorage":
    """The study's journal. Without `create`, a study that does not exist is an error."""
    if create:
        store.create()
    elif store.database is None and not store.journal.is_file():
        find_store(store.folder, store.study)
        raise UserError(f"study {store.study} has no journal yet", do="launch it first")
    return _open(store.url)


def launched(store: Store, storage: "RDBStorage") -> Iterator[tuple[Study, str]]:
    """The study as it was launched before, and where that is noted.

    Raises:
        UserError: the name is taken in the database by something else.
    """
    patient = Patience(storage)
    try:
        known = patient(lambda: storage.get_study_id_from_name(store.study))
    except KeyError:
        pass
    else:
        notes = patient(lambda: storage.get_study_user_attrs(known))
        if "toml" in notes:
            yield saved_study(notes["toml"], store.study), "the journal"
        elif "token" not in notes and (notes or storage.get_n_trials(known)):
            do = "give the study a new name"
            raise UserError(f"the journal holds a study {store.study} of another program", do=do)
    with contextlib.suppress(OSError, tomllib.TOMLDecodeError):  # a torn one says nothing
        text = store.toml.read_text(encoding="utf-8")
        yield saved_study(text, store.study), str(store.toml)


def saved_study(text: str, name: str) -> Study:
    """A study as it was saved; not checked against this machine, which may be another one."""
    from pydantic import ValidationError

    try:
        return Study.model_validate(tomllib.loads(text))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        do = "use that version, or launch the study under a new name"
        raise UserError(
            f"study {name} was saved by another version of Rayduce: {'; '.join(lines)}", do=do
        ) from None


def _open(url: "URL") -> "RDBStorage":
    import optuna
    import sqlalchemy.exc

    logging.getLogger("alembic").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What is met where another process makes the tables at the same time.
    being_made = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError)
    text = url.render_as_string(hide_password=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(OPEN_ATTEMPTS):
                with contextlib.suppress(*being_made):
                    return optuna.storages.RDBStorage(text, engine_kwargs=_settings(url))
                time.sleep(0.2)  # another process may be making the tables right now
            return optuna.storages.RDBStorage(text, engine_kwargs=_settings(url))
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as error:
        raise unreachable(text, error) from error  # RuntimeError: another schema


def _settings(url: "URL") -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": LOCKED}}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": ANSWER}}


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


def unreachable(url: str, error: Exception) -> UserError:
    """What to say of a journal that cannot be opened; no password in it."""
    if isinstance(error, ImportError):
        do = 'pip install -e ".[postgres]"'
        return UserError("storage.database: the PostgreSQL driver is not installed", do=do)
    secret = database_url(url).password
    said = cause(error).replace(secret, "***") if secret else cause(error)
    return UserError(f"cannot open the journal at {redacted(url)}: {said}")
