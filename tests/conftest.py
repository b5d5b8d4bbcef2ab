"""Fixtures that every test can use; the PostgreSQL ones are in `postgres_fixtures.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tests.postgres_fixtures", "tests.fix_proxy"]


@pytest.fixture
def duckdb_path(tmp_path: Path) -> Path:
    """Where a test's destination goes; the file does not exist yet."""
    return tmp_path / "destination.duckdb"


#: The matrix's core: runs on every version each time. Other tests marked `matrix` do so in `make test-matrix`, and each
#: time on the newest version only.
_CORE = ("test_matrix.py", "test_partition_origin.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from tests.postgres_fixtures import MAJOR_VERSIONS  # the plugin above is to be loaded first

    for item in items:
        callspec = getattr(item, "callspec", None)
        major = callspec.params.get("matrix_server") if callspec else None
        if major not in (None, MAJOR_VERSIONS[-1]) and item.path.name not in _CORE:
            item.add_marker(pytest.mark.slow)
