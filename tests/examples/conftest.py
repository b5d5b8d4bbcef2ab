"""The shop of `examples/shop` in PostgreSQL, as its own SQL creates it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.postgres_fixtures import SourceDatabase

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Files with SQL that create the shop, in their order.
SHOP_SQL = tuple(EXAMPLES / "shop" / name for name in ("schema.sql", "seed.sql"))


@pytest.fixture
def shop(database: SourceDatabase) -> SourceDatabase:
    for path in SHOP_SQL:
        database.execute(path.read_text())
    return database
