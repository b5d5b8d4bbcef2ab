"""A role for tests of privileges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import PASSWORD
from tests.support.postgres_fixtures import SourceDatabase


@pytest.fixture
def role(database: SourceDatabase) -> Iterator[str]:
    """A role with REPLICATION and nothing else, with a name that needs quotes."""
    name = f'Cdc "{database.name}'
    quoted = quote_identifier(name)
    database.execute(f"CREATE ROLE {quoted} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    yield name
    database.execute(f"DROP OWNED BY {quoted} CASCADE")
    database.execute(f"DROP ROLE {quoted}")
