"""Fixtures that every test can use; the PostgreSQL ones are in `postgres_fixtures.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tests.postgres_fixtures", "tests.fix_proxy"]


@pytest.fixture
def duckdb_path(tmp_path: Path) -> Path:
    """Where a test's destination goes; the file does not exist yet."""
    return tmp_path / "destination.duckdb"
