"""The lab: a fresh source database and a destination that does not exist yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.lab import Lab
from tests.postgres_fixtures import SourceDatabase


@pytest.fixture
def lab(database: SourceDatabase, duckdb_path: Path) -> Lab:
    return Lab(database, duckdb_path)
