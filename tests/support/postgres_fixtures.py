"""A PostgreSQL server for the test run, and a fresh database for each test.

`server` and `database` are the newest PostgreSQL at hand. `matrix_server` and `matrix_database` run a test
marked `matrix` once for every major version under the directory that DBMAZZ_POSTGRES_MATRIX names, by default
`.cache/postgres`, where `make test` puts them; a version that is not there is skipped.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dbmazz_core.demo.postgres import EmbeddedPostgres

MATRIX_VARIABLE = "DBMAZZ_POSTGRES_MATRIX"
#: Certificate and key of a server.
TLS = Path(__file__).parent / "tls"
MATRIX_DIRECTORY = Path(__file__).parents[2] / ".cache" / "postgres"
MAJOR_VERSIONS = (14, 15, 16, 17, 18)

#: A crash of the machine may lose everything; a crash of the server loses nothing (the kernel has the pages).
UNSAFE_BUT_FAST = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class SourceDatabase:
    """A database of its own for one test."""

    server: EmbeddedPostgres
    name: str

    @property
    def url(self) -> str:
        """Superuser's URL over TCP."""
        return self.server.url(self.name)

    @property
    def socket_url(self) -> str:
        """Superuser's URL over the Unix socket."""
        return self.server.url(self.name, socket=True)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection, autocommit. The caller closes it."""
        return psycopg.connect(self.url, autocommit=True)

    def execute(self, statement: str, *arguments: object) -> None:
        """Run SQL in a connection of its own. Without arguments it may be several statements, which then are
        one transaction."""
        with self.connect() as connection:
            connection.execute(statement, arguments or None)

    def fetch(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.connect() as connection:
            return connection.execute(query, arguments or None).fetchall()


def create_database(server: EmbeddedPostgres) -> SourceDatabase:
    """Create a database with a name that was never used on this server."""
    database = SourceDatabase(server, f"test_{uuid.uuid4().hex[:12]}")
    # The default of PostgreSQL 15 and later logs each page, which takes twice the time, and dropping three times.
    strategy = sql.SQL(" STRATEGY file_copy" if server.major >= 15 else "")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(database.name), strategy))
    return database


def drop_database(database: SourceDatabase) -> None:
    """Drop a database and its slots, whoever still uses them."""
    if not database.server.running:  # a crash test ended between crash and restart
        database.server.start()
    with psycopg.connect(database.server.url(), autocommit=True) as connection:
        # Slots belong to a database and hold it; a slot in use cannot be dropped until its walsender is gone.
        slots = "FROM pg_replication_slots WHERE database = %s"
        connection.execute(
            f"SELECT pg_terminate_backend(active_pid, 10000) {slots} AND active_pid IS NOT NULL",
            [database.name],
        )
        connection.execute(f"SELECT pg_drop_replication_slot(slot_name) {slots}", [database.name])
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """The server that all tests share. Tests that stop, crash or configure one start their own."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        yield server


@pytest.fixture
def database(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[SourceDatabase]:
    """A fresh database on the shared server; dropped with its slots afterwards."""
    since = request.node.get_closest_marker("since")
    if since is not None and int(server.version.split(".")[0]) < since.args[0]:
        pytest.skip(f"PostgreSQL {server.version} is older than {since.args[0]}")
    database = create_database(server)
    yield database
    drop_database(database)


@pytest.fixture(scope="session", params=MAJOR_VERSIONS, ids=lambda major: f"pg{major}")
def matrix_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A server of each major version. Only for tests marked `matrix`, which pytest sorts by version."""
    binaries = Path(os.environ.get(MATRIX_VARIABLE) or MATRIX_DIRECTORY) / str(request.param)
    if not binaries.is_dir():
        pytest.skip(f"PostgreSQL {request.param} is not in {binaries}; `make test-matrix` puts it there")
    with EmbeddedPostgres(binaries=binaries, settings=UNSAFE_BUT_FAST) as server:
        yield server


@pytest.fixture
def matrix_database(matrix_server: EmbeddedPostgres) -> Iterator[SourceDatabase]:
    """A fresh database on each major version. Only for tests marked `matrix`."""
    database = create_database(matrix_server)
    yield database
    drop_database(database)
