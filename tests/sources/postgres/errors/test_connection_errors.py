"""Connections that cannot be made: each a clear error with a remedy, and never the password in it."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import pq

from dbmazz_core.connectors.sources.postgres.connection import (
    LOCK_TIMEOUT_S,
    TEXT_FORM_SETTINGS,
    _refusal_cause,
    connect,
    connect_replication,
)
from dbmazz_core.connectors.sources.postgres.errors.connecting import (
    recognized_connection_error,
    unrecognized_connection_error,
)
from dbmazz_core.connectors.sources.postgres.errors.running import source_error
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    DbmazzError,
    MissingPrivilege,
    NoFreeSlot,
    NoFreeWalSender,
    PublicationNotFound,
    ReplicationInterrupted,
    SlotActive,
    SlotLost,
    SlotMismatch,
    SlotNotFound,
    SourceError,
    WalLevelNotLogical,
)
from dbmazz_core.settings.secret_url import SecretUrl
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, SourceDatabase

#: With characters that are percent-encoded in a URL: both forms must stay out.
PASSWORD = "Zq9/s3cr:t@x"
ENCODED = "Zq9%2Fs3cr%3At%40x"

Connect = Callable[[SecretUrl], object]
BOTH = pytest.mark.parametrize("open_connection", [connect, connect_replication])


@pytest.fixture
def role(database: SourceDatabase) -> Iterator[str]:
    """A role with REPLICATION that can log in."""
    name = f"cdc_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    yield name
    database.execute(f"DROP OWNED BY {name} CASCADE")
    database.execute(f"DROP ROLE {name}")


def address(database: SourceDatabase, role: str, password: str = ENCODED, options: str = "") -> SecretUrl:
    server = database.server
    return SecretUrl(f"postgres://{role}:{password}@{server.host}:{server.port}/{database.name}{options}")


def refused(open_connection: Connect, url: SecretUrl) -> DbmazzError:
    """The error, after a look at everything of it that could be shown."""
    with pytest.raises(DbmazzError) as caught:
        open_connection(url)
    error = caught.value
    shown = [
        str(error),
        repr(error),
        json.dumps(error.to_dict()),
        "".join(traceback.format_exception(error)),
        "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format()),
        repr(error.args),
        repr(error.__context__),
        repr(error.__cause__),
    ]
    for secret in (PASSWORD, ENCODED, url.parameters.get("password") or PASSWORD):
        assert all(secret not in text for text in shown)
    assert "://" not in error.what
    assert error.remedy
    return error


def sql_in(remedy: str) -> str:
    found = re.search(r"\b(?:ALTER|GRANT|CREATE)\b[^;]*;", remedy)
    assert found, remedy
    return found[0]


# The login


@BOTH
def test_wrong_password(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    url = address(database, role, "Zq9wrong")
    error = refused(open_connection, url)
    assert type(error) is AuthenticationFailed
    assert f'password of role "{role}"' in error.what
    assert error.exit_code == 3
    database.execute(sql_in(error.remedy).replace("...", "Zq9wrong"))
    connect(url).close()


@BOTH
def test_unknown_role(database: SourceDatabase, open_connection: Connect) -> None:
    error = refused(open_connection, address(database, "nobody_here"))
    assert type(error) is AuthenticationFailed
    assert '"nobody_here", or has no such role' in error.what


@BOTH
def test_no_password(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    error = refused(
        open_connection,
        SecretUrl(f"host={database.server.host} port={database.server.port} user={role} dbname=x"),
    )
    assert type(error) is AuthenticationFailed
    assert "none is given" in error.what


@BOTH
def test_unknown_database(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    server = database.server
    url = SecretUrl(f'postgres://{role}:{ENCODED}@{server.host}:{server.port}/No%20"Shop')
    error = refused(open_connection, url)
    assert type(error) is AuthenticationFailed
    assert error.object == 'database No "Shop'
    database.execute(sql_in(error.remedy))
    connect(url).close()
    database.execute('DROP DATABASE "No ""Shop"')


@BOTH
def test_role_that_may_not_log_in(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    database.execute(f"ALTER ROLE {role} NOLOGIN")
    url = address(database, role)
    error = refused(open_connection, url)
    assert type(error) is AuthenticationFailed
    database.execute(sql_in(error.remedy))
    connect(url).close()


@BOTH
def test_role_that_may_not_connect(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    database.execute(f"REVOKE CONNECT ON DATABASE {database.name} FROM PUBLIC")
    url = address(database, role)
    error = refused(open_connection, url)
    assert type(error) is MissingPrivilege
    database.execute(sql_in(error.remedy))
    connect(url).close()


def test_role_without_replication(database: SourceDatabase, role: str) -> None:
    database.execute(f"ALTER ROLE {role} NOREPLICATION")
    url = address(database, role)
    connect(url).close()
    error = refused(connect_replication, url)
    assert type(error) is MissingPrivilege
    assert error.remedy.startswith(f'ALTER ROLE "{role}" REPLICATION;')
    # The same from facts alone, as for a server whose messages are not English.
    assert str(_refusal_cause(url)) == str(error)
    database.execute(sql_in(error.remedy))
    assert _refusal_cause(url) is None
    connect_replication(url).finish()


@BOTH
def test_no_entry_in_pg_hba_conf(open_connection: Connect) -> None:
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        hba = server.data_dir / "pg_hba.conf"
        hba.write_text("local all all scram-sha-256\n")
        server.restart()
        url = SecretUrl(server.url())
        error = refused(open_connection, url)
        assert type(error) is AuthenticationFailed
        line = re.search(r"pg_hba\.conf: (host .*), then", error.remedy)
        assert line
        assert line[1] == 'host "postgres" "postgres" 127.0.0.1/32 scram-sha-256'
        hba.write_text(f"{line[1]}\n{hba.read_text()}")
        with closing(connect(SecretUrl(server.url(socket=True)))) as conn:
            conn.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while True:
            try:
                connect(url).close()
                break
            except AuthenticationFailed:
                assert time.monotonic() < deadline
                time.sleep(0.05)


# The way there


@BOTH
def test_unknown_host(open_connection: Connect) -> None:
    error = refused(open_connection, SecretUrl(f"postgres://cdc:{ENCODED}@no-such-host.invalid/shop"))
    assert type(error) is ConnectionFailed
    assert error.what == "no such host: no-such-host.invalid:5432"


@BOTH
def test_nothing_listens(open_connection: Connect) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        error = refused(open_connection, SecretUrl(f"postgres://cdc:{ENCODED}@127.0.0.1:{port}/shop"))
    assert type(error) is ConnectionFailed
    assert error.what == f"nothing listens at 127.0.0.1:{port}"


@BOTH
def test_no_such_socket(open_connection: Connect) -> None:
    error = refused(open_connection, SecretUrl(f"postgres://cdc:{ENCODED}@/shop?host=/nowhere"))
    assert error.what == "nothing listens at /nowhere/.s.PGSQL.5432"


@BOTH
def test_a_server_that_does_not_answer(open_connection: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        error = refused(open_connection, SecretUrl(f"postgres://cdc:{ENCODED}@127.0.0.1:{port}/shop?connect_timeout=2"))
        assert time.monotonic() - started < 8
    assert type(error) is ConnectionFailed
    assert "did not answer in time" in error.what


@BOTH
def test_something_else_listens(open_connection: Connect) -> None:
    def answer() -> None:  # runs only if connecting lets other threads run
        with server.accept()[0] as client:
            client.recv(100)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        port = server.getsockname()[1]
        error = refused(open_connection, SecretUrl(f"postgres://cdc:{ENCODED}@127.0.0.1:{port}/shop"))
    assert type(error) is ConnectionFailed
    assert error.what == f"the server at 127.0.0.1:{port} is not PostgreSQL"


@BOTH
def test_tls_that_the_server_does_not_offer(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    error = refused(open_connection, address(database, role, options="?sslmode=require"))
    assert type(error) is ConnectionFailed
    assert error.what.startswith("no encrypted connection")


@BOTH
@pytest.mark.parametrize(
    "options",
    ["sslmode=perhaps", "connect_timeout=soon", "service=nowhere", "options=-c%20no_such_setting%3D1"],
)
def test_options_that_cannot_be_used(
    database: SourceDatabase, role: str, open_connection: Connect, options: str
) -> None:
    error = refused(open_connection, address(database, role, options=f"?{options}"))
    assert type(error) is ConfigError
    assert error.object == "SOURCE_URL"


@BOTH
def test_several_hosts(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        hosts = f"127.0.0.1:{port},{database.server.host}:{database.server.port}"
        url = SecretUrl(f"postgres://{role}:{ENCODED}@{hosts}/{database.name}")
        connection = open_connection(url)
        if isinstance(connection, psycopg.Connection):
            connection.close()
        # What the one that answers says counts.
        error = refused(open_connection, SecretUrl(f"postgres://{role}:Zq9wrong@{hosts}/{database.name}"))
    assert type(error) is AuthenticationFailed


def test_the_password_stays_out_where_a_message_repeats_it() -> None:
    url = SecretUrl(f"postgres://cdc:{ENCODED}@h/shop")
    error = unrecognized_connection_error(f"odd: {PASSWORD} and {ENCODED}", url, used_password=True)
    assert PASSWORD not in str(error)
    assert ENCODED not in str(error)


# Limits


def test_no_free_walsender() -> None:
    with EmbeddedPostgres(settings={**UNSAFE_BUT_FAST, "max_wal_senders": "1"}) as server:
        url = SecretUrl(server.url())
        first = connect_replication(url)
        error = refused(connect_replication, url)
        assert type(error) is NoFreeWalSender
        assert "max_wal_senders" in error.what
        assert str(_refusal_cause(url)) == str(error)
        with closing(connect(url)) as conn:
            for statement in re.findall(r"SELECT [^;]*;|ALTER [^;]*;", error.remedy):
                conn.execute(statement.encode())
        first.finish()
        server.restart()
        connections = [connect_replication(url) for _ in range(2)]
        for connection in connections:
            connection.finish()


@pytest.mark.parametrize("kind", ["role", "database"])
def test_too_many_connections(database: SourceDatabase, role: str, kind: str) -> None:
    name = role if kind == "role" else database.name
    database.execute(f"ALTER {kind} {name} CONNECTION LIMIT 1")
    with closing(connect(address(database, role))):
        connect_replication(address(database, role)).finish()  # walsenders do not count
        error = refused(connect, address(database, role))
        assert type(error) is NoFreeWalSender
        assert error.object == f"{kind} {name}"
        assert f'CONNECTION LIMIT of {kind} "{name}"' in error.what
        database.execute(sql_in(error.remedy))
        connect(address(database, role)).close()


# Sessions


@BOTH
def test_session_settings(database: SourceDatabase, role: str, open_connection: Connect) -> None:
    """No timeout of the role or the database ends a long snapshot, and text has one form."""
    for setting in (
        "statement_timeout = '1s'",
        "idle_in_transaction_session_timeout = '1s'",
        "lock_timeout = '1s'",
        "idle_session_timeout = '1s'",
        "datestyle = 'German, DMY'",
        "intervalstyle = 'iso_8601'",
        "timezone = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
        "extra_float_digits = -10",
        "row_security = on",
        "client_encoding = 'LATIN1'",
        *(["transaction_timeout = '1s'"] if database.server.major >= 17 else []),
    ):
        database.execute(f"ALTER ROLE {role} SET {setting}")
    # Functions that would be found first with a search path.
    database.execute(f"ALTER ROLE {role} SET search_path = 'public, pg_catalog'")
    shown = {
        **dict.fromkeys(("statement_timeout", "idle_in_transaction_session_timeout"), "0"),
        "lock_timeout": f"{LOCK_TIMEOUT_S // 60}min" if open_connection is connect else "0",
        "idle_session_timeout": "0",
        "search_path": "",
        "row_security": "off",
        "application_name": "dbmazz",
        **TEXT_FORM_SETTINGS,
    }
    url = address(database, role)
    if open_connection is connect:
        with closing(connect(url, text_form=True)) as conn:
            query = "SELECT n, current_setting(n) FROM unnest(%s::text[]) n"
            found = dict(conn.execute(query, (list(shown),)).fetchall())
    else:
        connection = connect_replication(url)
        assert connection.status == pq.ConnStatus.OK
        found = {
            name: (connection.exec_(f"SELECT current_setting('{name}')".encode()).get_value(0, 0) or b"").decode()
            for name in shown
        }
        assert connection.exec_(b"IDENTIFY_SYSTEM").get_value(0, 3) == database.name.encode()
        connection.finish()
    assert found == shown


def test_application_name_of_the_url_goes_first(database: SourceDatabase) -> None:
    url = SecretUrl(f"{database.url}?application_name=mine")
    with closing(connect(url, application_name="other")) as conn:
        assert conn.info.parameter_status("application_name") == "mine"


def test_connect_with_a_url_for_replication_is_ordinary(database: SourceDatabase) -> None:
    with closing(connect(SecretUrl(f"{database.url}?replication=database"))) as conn:
        assert conn.execute("SELECT %s::int", (1,)).fetchone() == (1,)


# Errors of a running server


@pytest.mark.parametrize(
    ("sqlstate", "message", "expected"),
    [
        ("55006", 'ERROR:  replication slot "my_2" is active for PID 4711', SlotActive),
        ("55006", 'replication slot "my_2" is active', SlotActive),
        ("42704", 'replication slot "my_2" does not exist', SlotNotFound),
        (
            "42704",
            'publication "pub_2" does not exist\nCONTEXT:  slot "my_2", output plugin ...',
            PublicationNotFound,
        ),
        ("42704", "Publikation »pub_2« existiert nicht", SlotNotFound),
        ("42710", 'replication slot "my_2" already exists', SlotMismatch),
        ("55000", 'cannot read from logical replication slot "my_2"', SlotLost),
        ("55000", 'can no longer access replication slot "my_2"', SlotLost),
        ("55000", 'logical decoding requires "wal_level" >= "logical"', WalLevelNotLogical),
        ("55000", 'replication slot "my_2" was not created in this database', SlotMismatch),
        ("55000", "cannot use physical replication slot for logical decoding", SlotMismatch),
        ("58P01", "requested WAL segment 000000010000000000000001 has already been removed", SlotLost),
        ("53400", "all replication slots are in use", NoFreeSlot),
        ("53300", "sorry, too many clients already", NoFreeWalSender),
        ("42501", "must be superuser or replication role to use replication slots", MissingPrivilege),
        ("42501", "permission denied for table orders", MissingPrivilege),
        ("57P01", "terminating connection due to administrator command", ReplicationInterrupted),
        (None, "server closed the connection unexpectedly", ReplicationInterrupted),
        ("XX000", "invalid memory alloc request size 1585837200", SourceError),
    ],
)
def test_errors_of_a_running_server(sqlstate: str | None, message: str, expected: type[SourceError]) -> None:
    url = SecretUrl(f"postgres://cdc:{ENCODED}@db/shop")
    error = source_error(sqlstate, f"{message} {PASSWORD}", url, slot="my_2", publication="pub_2")
    assert type(error) is expected
    assert PASSWORD not in str(error)
    if "4711" in message:
        assert "in use by process 4711" in error.what


SERVER_WORDS = [
    (None, 'FATAL:  password authentication failed for user "cdc"'),
    (None, 'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "cdc", database "shop", no encryption'),
    (None, "FATAL:  sorry, too many clients already"),
    (None, "FATAL:  the database system is starting up"),
    (None, "connection to server failed: Connection refused"),
    ("55000", 'logical decoding requires "wal_level" >= "logical"'),
    ("58P01", "requested WAL segment 000000010000000000000001 has already been removed"),
    ("42704", 'no publication "pub_2" (once)'),
    ("42501", "must be superuser or replication role to use replication slots"),
    ("XX000", "invalid memory alloc request size 1585837200"),
]


@pytest.mark.parametrize("password", ["new", "e", "password", "SOURCE_URL", "wal_level", "WAL", "refused", "1"])
@pytest.mark.parametrize(("sqlstate", "message"), SERVER_WORDS)
def test_a_short_password_masks_only_texts_of_the_server(sqlstate: str | None, message: str, password: str) -> None:
    """In dbmazz's own words the mask would tell the password, and a masked message would not be recognized."""

    def error(password: str) -> DbmazzError:
        url = SecretUrl(f"postgres://cdc:{password}@db/shop")
        if sqlstate is not None:
            return source_error(sqlstate, message, url, slot="my_2", publication="pub_2")
        recognized = recognized_connection_error(message, url)
        assert recognized is not None
        return recognized

    expected, found = error("Zq9-in-no-text"), error(password)
    assert (type(found), found.object, found.remedy) == (type(expected), expected.object, expected.remedy)
    text = message.partition(":  ")[2] or message
    for shown in (text, text.partition(": ")[2] or text):
        if shown in expected.what:
            assert found.what == expected.what.replace(shown, shown.replace(password, "***"))
            return
    assert found.what == expected.what


def test_publication_dropped_while_streaming(database: SourceDatabase) -> None:
    """Up to PostgreSQL 17 the stream stops at the change; 18 leaves the change out, with a warning."""
    slot = f"slot_{database.name}"
    database.execute("CREATE TABLE t (i int); CREATE PUBLICATION p FOR TABLE t")
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
    database.execute("DROP PUBLICATION p")
    database.execute("INSERT INTO t VALUES (1)")
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    peek = """
        SELECT count(*) FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL,
            'proto_version', '1', 'publication_names', 'p')
        WHERE get_byte(data, 0) = ascii('I')
    """
    url = SecretUrl(database.url)
    with closing(connect(url)) as conn:
        if database.server.major >= 18:
            assert conn.execute(peek, (slot,)).fetchone() == (0,)
            return
        with pytest.raises(PublicationNotFound), translate_errors(url, slot=slot, publication="p"):
            conn.execute(peek, (slot,))


def test_a_connection_that_breaks_is_an_interruption(database: SourceDatabase) -> None:
    url = SecretUrl(database.url)
    with closing(connect(url)) as conn:
        database.execute("SELECT pg_terminate_backend(%s)", conn.info.backend_pid)
        with pytest.raises(ReplicationInterrupted) as caught, translate_errors(url):
            conn.execute("SELECT 1")
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("message", "expected", "words"),
    [
        ('FATAL:  Peer authentication failed for user "cdc"', AuthenticationFailed, "Peer authentication"),
        (
            "FATAL:  connection requires a valid client certificate",
            AuthenticationFailed,
            "client certificate",
        ),
        ("FATAL:  the database system is starting up", ConnectionFailed, "no connections at the moment"),
        ("session is read-only", ConnectionFailed, "meets target_session_attrs"),
        ("ERROR:  unsupported startup parameter: replication", ConnectionFailed, "pooler"),
        ("SSL error: certificate verify failed", ConnectionFailed, "no encrypted connection"),
        ("FATAL:  sorry, too many clients already", NoFreeWalSender, "too many clients"),
    ],
)
def test_refusals_that_need_another_server(message: str, expected: type[DbmazzError], words: str) -> None:
    url = SecretUrl(f"postgres://cdc:{ENCODED}@db/shop")
    error = recognized_connection_error(f'connection to server at "db", port 5432 failed: {message}', url)
    assert type(error) is expected
    assert words in error.what


@pytest.mark.parametrize(
    "message",
    [
        "unexpected duplicate for tablespace 0, relfilenumber 95759",
        "unexpected duplicate for tablespace 0, relfilenode 95759",
        'could not map filenumber "base/5/16401" to relation OID',
    ],
)
def test_wal_that_the_server_cannot_decode(message: str) -> None:
    """Seen with PostgreSQL 18.6, by the generated workloads: every attempt fails at the same place."""
    error = source_error("XX000", message, SecretUrl("postgres://u@h/d", variable="SOURCE_URL"), slot="shop")
    assert error.what == (
        f"PostgreSQL at h:5432 cannot decode its WAL for replication slot shop: {message} (SQLSTATE XX000)"
    )
    assert "dbmazz snapshot" in error.remedy
