"""Connections and settings for tests of setup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dbmazz_core.connectors.sources.postgres.connection import Connection, connect
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import PASSWORD, Configure
from tests.support.postgres_fixtures import SourceDatabase


@pytest.fixture
def configure(database: SourceDatabase) -> Configure:
    """Settings for tables of the database; slot names are unique on the shared server."""

    def configure(tables: str = "orders", *, url: str | None = None, **settings: Any) -> SourceConfig:
        return SourceConfig(
            SecretUrl(url or database.url),
            parse_tables(tables),
            **{"slot": f"slot_{database.name}", **settings},
        )

    return configure


@pytest.fixture
def conn(database: SourceDatabase) -> Iterator[Connection]:
    """The superuser's connection."""
    with closing(connect(SecretUrl(database.url))) as conn:
        yield conn


@pytest.fixture
def role(database: SourceDatabase) -> Iterator[str]:
    """A role with REPLICATION and nothing else, with a name that needs quotes."""
    name = f'Cdc "{database.name}'
    quoted = quote_identifier(name)
    database.execute(f"CREATE ROLE {quoted} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    yield name
    database.execute(f"DROP OWNED BY {quoted} CASCADE")
    database.execute(f"DROP ROLE {quoted}")
