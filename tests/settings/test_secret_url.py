"""Passwords of every form in `SOURCE_URL`: libpq gets them whole, and no text for people has a part of them."""

from __future__ import annotations

import logging

import psycopg
import pytest

from dbmazz_core.cli.report import Report
from dbmazz_core.cli.run import main
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.secret_url import SecretUrl
from tests.support.postgres_fixtures import SourceDatabase

#: Characters that mean something in a URL, except `@`, `/` and `%`, which libpq does not accept as they are.
PASSWORDS = [
    "ab[cd",
    "ab]cd",
    "[ab]",
    "ab?cd",
    "ab?cd=e&f",
    "ab#cd",
    "ab:cd",
    "a://b",
    "ab;cd",
    "ab'c\"d",
    "ab\\cd",
    "ab=cd",
]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_with_special_characters_is_hidden_and_complete(password: str) -> None:
    written = password.replace("/", "%2F")
    url = SecretUrl(f"postgresql://app:{written}@db.example:5432/shop?sslmode=require")
    assert url.parameters["password"] == password
    assert str(url) == "postgresql://app:***@db.example:5432/shop?sslmode=require"
    assert url.parameters["host"] == "db.example"
    assert url.redact(f"libpq says {password}") == "libpq says ***"


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_in_a_string_of_keys_and_values_is_hidden(password: str) -> None:
    url = SecretUrl(psycopg.conninfo.make_conninfo("host=db.example dbname=shop", password=password))
    assert url.parameters["password"] == password
    shown = psycopg.conninfo.conninfo_to_dict(str(url))
    assert shown == {"host": "db.example", "dbname": "shop", "password": "***"}


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:wr0ng@SECRET@db.example/shop",
        "postgresql://app:wr0ng@SECRET/x@db.example:5432/shop",
        "postgres://app@SECRET:5432/x@y",
    ],
)
def test_a_second_at_sign_is_refused_without_showing_it(text: str) -> None:
    """libpq would take the text behind the first one as the host, and show it in its errors."""
    with pytest.raises(ConfigError, match="more than one @") as info:
        SecretUrl(text)
    assert "SECRET" not in str(info.value)
    assert "%40" in info.value.remedy


def test_at_signs_in_options_are_left() -> None:
    url = SecretUrl("postgresql://db.example/shop?user=app@tenant&password=s3cret")
    assert str(url) == "postgresql://db.example/shop?user=app@tenant&password=***"


def test_a_bracket_in_the_password_connects(database: SourceDatabase) -> None:
    database.execute("CREATE ROLE bracket LOGIN PASSWORD 'ab[cd?e'")
    try:
        parameters = SecretUrl(database.url).parameters
        url = SecretUrl(
            f"postgresql://bracket:ab[cd?e@{parameters['host']}:{parameters['port']}/{parameters['dbname']}"
        )
        with psycopg.connect(url.reveal()) as connection:
            assert connection.info.user == "bracket"
    finally:
        database.execute("DROP ROLE bracket")


@pytest.mark.parametrize("flags", [[], ["--json"], ["--debug"]])
def test_a_short_password_stays_untold_by_errors_of_the_command(
    database: SourceDatabase, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    """As "a*** password" would tell it. Texts of PostgreSQL are searched for it."""
    server, name = database.server, f"pu_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'other'")
    try:
        monkeypatch.setenv("SOURCE_URL", f"postgresql://{name}:new@{server.host}:{server.port}/{database.name}")
        monkeypatch.setenv("TABLES", "public.*")
        assert main(["status", *flags]) == 3
    finally:
        database.execute(f"DROP ROLE {name}")
    printed = capsys.readouterr()
    assert "or set a new password: ALTER ROLE" in printed.out + printed.err
    assert "***" not in printed.out + printed.err


def test_errors_and_log_messages_of_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(debug=True, url=SecretUrl("postgresql://app:new@db/shop"))
    try:
        try:
            raise ValueError("a driver says new")
        except ValueError as error:
            raise ConfigError("our new words", object="x", remedy="a new one") from error
    except ConfigError as error:
        report.error(error)
    assert "ValueError: a driver says ***\n" in (printed := capsys.readouterr().err)
    assert "our new words" in printed
    report.unexpected(ValueError("new"))
    assert "error: unexpected ValueError: ***\n" in capsys.readouterr().err
    for name, text in (("psycopg", "***"), ("dbmazz", "new")):
        record = logging.LogRecord(name, logging.WARNING, "", 0, "says %s", ("new",), None)
        assert report._redact_log_record(record)
        assert record.getMessage() == f"says {text}"
