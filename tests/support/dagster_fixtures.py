"""A Dagster instance of its own for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import dagster as dg  # most tests do without Dagster, whose import takes a second


@pytest.fixture(scope="session")
def empty_dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an instance that nothing has used. Its SQLite schema takes 0.2 s to create."""
    import dagster as dg

    home = tmp_path_factory.mktemp("dagster") / "dagster_home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        assert instance.get_runs_count() == 0
    return home


@pytest.fixture
def instance(tmp_path: Path, empty_dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with SQLite storage of its own."""
    import dagster as dg

    home = shutil.copytree(empty_dagster_home, tmp_path / "dagster_home")
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance
