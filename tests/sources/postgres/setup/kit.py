"""What tests of setup have in common: tables, and remedies that are followed as somebody would."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from dbmazz_core.connectors.sources.postgres.connection import Connection, connect
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.settings.secret_url import SecretUrl
from tests.support.postgres_fixtures import SourceDatabase

PASSWORD = "Zq9-secret"
FULL = ReplicaIdentityPolicy.FULL
LEAVE = ReplicaIdentityPolicy.LEAVE

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, note text)"
EVENTS = "CREATE TABLE events (at int, note text)"

Configure = Callable[..., SourceConfig]


@contextmanager
def connected_as(database: SourceDatabase, role: str) -> Iterator[tuple[Connection, str]]:
    url = database.server.url(database.name, role=role, password=PASSWORD)
    with closing(connect(SecretUrl(url))) as conn:
        yield conn, url


def statements(remedy: str) -> list[str]:
    """The SQL of a remedy, as somebody would copy it."""
    return re.findall(r"(?:\b(?:ALTER|GRANT|CREATE|COMMENT|DROP|ROLLBACK) |\bSELECT pg_)[^;]*;", remedy)


def apply(database: SourceDatabase, remedy: str) -> None:
    """Do what the remedy says."""
    found = statements(remedy)
    assert found, remedy
    for statement in found:
        if "rds_replication" not in statement:
            database.execute(statement)


def create_slot(database: SourceDatabase, name: str, plugin: str = "pgoutput") -> None:
    database.execute("SELECT pg_create_logical_replication_slot(%s, %s)", name, plugin)


def catalog_state(database: SourceDatabase) -> list[tuple[Any, ...]]:
    """Everything that setup could change, with the transaction that wrote it."""
    return [
        *database.fetch("SELECT oid, xmin, relreplident FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
        *database.fetch("SELECT oid, xmin::text, pubname FROM pg_publication"),
        *database.fetch("SELECT oid, xmin::text, prrelid FROM pg_publication_rel"),
        *database.fetch("SELECT slot_name, plugin FROM pg_replication_slots WHERE database = current_database()"),
    ]


def identity(database: SourceDatabase, table: str) -> str:
    return str(database.fetch("SELECT relreplident::text FROM pg_class WHERE oid = %s::regclass", table)[0][0])
