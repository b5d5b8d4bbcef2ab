"""A small shop, and the command set up for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Dbmazz
from tests.support.postgres_fixtures import SourceDatabase

SCHEMA = """
    CREATE TABLE orders (id int PRIMARY KEY, note text, amount numeric(10, 2), raw bytea, at timestamptz);
    CREATE TABLE items (id bigint PRIMARY KEY, order_id int, what text);
    INSERT INTO orders SELECT i, 'note ' || i, i * 1.25, '\\x00ff', '2024-02-29 12:00+02' FROM generate_series(1, 50) i;
    INSERT INTO items SELECT i, i % 50 + 1, 'thing' FROM generate_series(1, 120) i;
"""


@pytest.fixture
def shop(database: SourceDatabase) -> SourceDatabase:
    """Tables `orders` (50 rows) and `items` (120 rows)."""
    database.execute(SCHEMA)
    return database


@pytest.fixture
def dbmazz(shop: SourceDatabase, duckdb_path: Path) -> Dbmazz:
    """The command, for both tables of the shop."""
    return Dbmazz.of(shop, duckdb_path, "public.orders,public.items")
