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
from tests.sources.postgres.setup.kit import Configure
from tests.support.postgres_fixtures import SourceDatabase


@pytest.fixture
def configure(database: SourceDatabase) -> Configure:
    """Settings for tables of the database; slot names are unique on the shared server."""

    def configure(tables: str = "orders", *, url: str | None = None, **settings: Any) -> SourceConfig:
        return SourceConfig(
            SecretUrl(url or database.url),
            parse_tables(tables),
            **{"slot": f"slot_{database.name}", "publication": "dbmazz_pub", **settings},
        )

    return configure


@pytest.fixture
def conn(database: SourceDatabase) -> Iterator[Connection]:
    """The superuser's connection."""
    with closing(connect(SecretUrl(database.url))) as conn:
        yield conn
