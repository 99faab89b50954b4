"""Database URLs: opened with their password, but stored, shown and logged without it.

A password is best left out of the URL: PostgreSQL's client reads $PGPASSWORD and ~/.pgpass by
itself. A variable in its place, `postgresql://me:$SECRET@host/name`, is stored as it is written.
"""

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from trainables.core.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import URL

DRIVER = "postgresql+psycopg"
EXAMPLE = '"postgresql://user@host/name", its password in $PGPASSWORD or ~/.pgpass'
VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
AUTHORITY = re.compile(r"^([^:/]+://[^:/@]*):([^@]*)@")
ANY_AUTHORITY = re.compile(r"^([^:/]+://[^:/@]*):(.*)@")  # also one whose password holds an @
ANYWHERE = re.compile(r"(?<=://)[^\s/@]*@")  # a name, or with a password, before a host in a text
QUERY = re.compile(r"([?&])(?:password|sslpassword)=([^&]*)&?")


def database_url(text: str) -> "URL":
    """What to connect to: variables filled in, our driver named.

    Raises:
        UserError: it cannot be read; the message does not repeat what may be a password.
    """
    from sqlalchemy.exc import ArgumentError

    try:
        url = _parsed(text)
    except (ArgumentError, ValueError):
        raise UserError("storage.database: cannot be read", allowed=EXAMPLE) from None
    if url.host is not None and "@" in url.host:
        do = "write the @ of a password as %40, or leave it to $PGPASSWORD"
        raise UserError("storage.database: more than one @", allowed=EXAMPLE, do=do)
    return url


def _parsed(text: str) -> "URL":
    from sqlalchemy import make_url

    url = make_url(os.path.expandvars(AUTHORITY.sub(_credentials, text)))
    old = url.drivername in ("postgres", "postgresql")
    return url.set(drivername=DRIVER) if old else url


def _credentials(found: re.Match[str]) -> str:
    """A variable's value as a URL writes it, since a password may hold any character."""
    if VARIABLE.fullmatch(found[2]) is None:
        return found[0]
    return f"{found[1]}:{quote(os.path.expandvars(found[2]), safe='$')}@"


def stored(text: str) -> str:
    """The URL as study files, notes and reports may hold it: no password but a variable's name."""

    def credentials(found: re.Match[str]) -> str:
        return found[0] if VARIABLE.fullmatch(found[2]) else f"{found[1]}@"

    def option(found: re.Match[str]) -> str:
        return found[0] if VARIABLE.fullmatch(found[2]) else found[1]

    return QUERY.sub(option, AUTHORITY.sub(credentials, text)).rstrip("?&")


def redacted(text: str) -> str:
    """The URL as messages show it: no password at all."""
    text = text.replace(f"{DRIVER}:", "postgresql:", 1)
    return QUERY.sub(r"\1", ANY_AUTHORITY.sub(r"\1@", text)).rstrip("?&")


def hidden(text: str) -> str:
    """A text, such as a library's error, in which URLs stand without users and passwords."""
    return ANYWHERE.sub("", text)


def database_problems(database: str | None) -> list[UserError]:
    """What is wrong with storage.database, without connecting."""
    if database is None:
        return []
    if any(name.strip("${}") not in os.environ for name in VARIABLE.findall(database)):
        do = "set the environment variable it names; a $ of a password itself is written %24"
        got = redacted(database)
        what = "storage.database: a variable is not set"
        return [UserError(what, got=got, allowed=EXAMPLE, do=do)]
    try:
        url = database_url(database)
    except UserError as problem:
        return [problem]
    if url.drivername != DRIVER:
        do = "leave it out for the folder's own SQLite file"
        return [UserError("storage.database", got=redacted(database), allowed=EXAMPLE, do=do)]
    return []
