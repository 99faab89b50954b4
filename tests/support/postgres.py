"""A PostgreSQL server of a test's own, from the system's packages; it can be stopped."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = "postgres"  # PostgreSQL does not run as root
WHY_NOT = "PostgreSQL is not installed (Debian: apt-get install postgresql)"


def binaries() -> Path | None:
    """Where the server's programs lie; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    tool = shutil.which("initdb")
    return Path(tool).resolve().parent if tool else None


class Postgres:
    """A server on a free port of this machine, without a password."""

    def __init__(self, folder: Path) -> None:
        place = binaries()
        assert place is not None, WHY_NOT
        self.programs, self.folder = place, folder
        self.user = pwd.getpwnam(NOBODY) if os.geteuid() == 0 else None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        if self.user is not None:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        self._run("initdb", "--auth=trust", "--username=rayduce", "--no-sync", str(folder / "data"))
        self.start()

    def url(self, database: str = "postgres") -> str:
        """A database's address."""
        return f"postgresql://rayduce@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make a database; its address."""
        tool = [str(self.programs / "createdb"), "-h", "127.0.0.1", "-p", str(self.port)]
        subprocess.run([*tool, "-U", "rayduce", database], check=True)
        return self.url(database)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        log = str(self.folder / "log")
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start"
        )

    def stop(self) -> None:
        """End it at once, as a crash would."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        who = {} if self.user is None else {"user": self.user.pw_uid, "group": self.user.pw_gid}
        subprocess.run(
            [str(self.programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **who,  # type: ignore[arg-type]
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server, while open."""
    with tempfile.TemporaryDirectory(prefix="rayduce-pg-", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o755)
        server = Postgres(Path(place) / "server")
        try:
            yield server
        finally:
            server.stop()
