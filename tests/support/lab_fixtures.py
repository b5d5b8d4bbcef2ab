"""The lab: a fresh source database and a destination that does not exist yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import FlushConfig
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase


@pytest.fixture
def lab(database: SourceDatabase, duckdb_path: Path) -> Lab:
    return Lab(database, duckdb_path)


@pytest.fixture
def matrix_lab(matrix_database: SourceDatabase, duckdb_path: Path) -> Lab:
    """A lab on every major version. Only for tests marked `matrix`."""
    return Lab(matrix_database, duckdb_path)


@pytest.fixture(
    params=[
        "one flush",
        "many flushes",
        # `make soak`: what these modes are about has tests of its own.
        pytest.param("soft_delete", marks=pytest.mark.slow),
        pytest.param("changelog", marks=pytest.mark.slow),
    ]
)
def trap(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    """Changes meet each other in one batch, or, flushed after every transaction, a filled destination; in all modes."""
    match request.param:
        case "one flush":
            return lab
        case "changelog":
            return lab.kept(Mode.CHANGELOG)
        case mode:
            lab = lab.configured(flush=FlushConfig(size=1))
            return lab.kept(Mode.SOFT_DELETE) if mode == "soft_delete" else lab


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under REPLICA IDENTITY FULL nothing is taken from the destination: one flush tells as much as many."""
    items[:] = [item for item in items if "FULL" not in (found := parameters(item)) or not found & SLOW]


SLOW = {"many flushes", "soft_delete"}


def parameters(item: pytest.Item) -> set[object]:
    callspec = getattr(item, "callspec", None)
    return {value for value in callspec.params.values() if isinstance(value, str)} if callspec else set()
