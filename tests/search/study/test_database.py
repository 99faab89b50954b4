"""Database URLs: any password gets through, and none is stored or shown."""

import pytest

from search.study.database import database_problems, database_url, redacted, stored
from search.study.load import parse_study, study_toml
from tests.support.journals import TOML
from trainables.core.errors import UserError

SECRET = "p@s$s/%41?#"


def test_urls_are_opened_with_variables_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    url = database_url("postgresql://me:$SECRET@host:5432/name")
    assert (url.drivername, url.username, url.password) == ("postgresql+psycopg", "me", SECRET)
    assert (url.host, url.port, url.database) == ("host", 5432, "name")
    assert database_url("postgresql://me:${SECRET}@host/name").password == SECRET
    assert database_url("postgres://host/name").drivername == "postgresql+psycopg"
    monkeypatch.setenv("DATABASE", "postgresql://me:s3cret@host/name")
    assert database_url("$DATABASE").password == "s3cret"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("postgresql://me:s3cret@host/name", "postgresql://me@host/name"),
        ("postgresql://me:a:s3cret@host/name", "postgresql://me@host/name"),
        ("postgresql://me:s3c/ret@host/name", "postgresql://me@host/name"),
        ("postgresql://host/name?password=s3cret", "postgresql://host/name"),
        ("postgresql://host/n?password=s3cret&a=b", "postgresql://host/n?a=b"),
        ("postgresql://host/n?a=b&password=s3cret", "postgresql://host/n?a=b"),
        ("postgresql://me:$SECRET@host/name", "postgresql://me:$SECRET@host/name"),
        ("postgresql://me:${SECRET}@host/name", "postgresql://me:${SECRET}@host/name"),
        ("postgresql://me@host/name", "postgresql://me@host/name"),
        ("$DATABASE", "$DATABASE"),
    ],
)
def test_a_password_is_never_stored(text: str, kept: str) -> None:
    assert stored(text) == kept
    saved = study_toml(parse_study(TOML, "depth.toml"))
    assert "database" not in saved
    study = parse_study(TOML, "depth.toml")
    storage = study.storage.model_copy(update={"database": text})
    saved = study_toml(study.model_copy(update={"storage": storage}))
    assert f'database = "{kept}"' in saved
    assert "s3c" not in saved


def test_no_message_shows_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET", raising=False)
    assert redacted("postgresql://me:$SECRET@host/name") == "postgresql://me@host/name"
    assert redacted("sqlite:///file.db") == "sqlite:///file.db"
    for text in (
        "mysql://me:s3cret@host/name",
        "postgresql://me:s3@s3cret@host/name",
        "postgresql://me:s3cret@host:port/name",
        "postgresql:me:s3cret",
        "postgresql://me:$s3cret@host/name",
    ):
        (problem,) = database_problems(text)
        assert "s3" not in str(problem)
        assert "$PGPASSWORD" in problem.allowed or "environment variable" in problem.do


def test_what_is_wrong_with_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:$SECRET@host/name"
    monkeypatch.setenv("SECRET", SECRET)
    assert database_problems(url) == database_problems(None) == []
    monkeypatch.delenv("SECRET")
    assert "variable is not set" in str(database_problems(url)[0])
    assert "SQLite file" in database_problems("mysql://host/name")[0].do
    with pytest.raises(UserError, match="%40"):
        database_url("postgresql://me:a@b@host/name")
