"""What is set up for all tests; their fixtures and helpers are in `tests/support`, whose docstring lists them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = [
    "tests.support.postgres_fixtures",
    "tests.support.proxy_fixture",
    "tests.support.silence_fixture",
    "tests.support.lab_fixtures",
    "tests.support.dagster_fixtures",
]


@pytest.fixture
def duckdb_path(tmp_path: Path) -> Path:
    """Where a test's destination goes; the file does not exist yet."""
    return tmp_path / "destination.duckdb"


_MEMORY = Path("/dev/shm")
_ROOM = 6 << 30


def pytest_configure() -> None:
    """Put what is temporary into memory, where there is room and programs may run, unless TMPDIR says where.

    Each test has a database of its own, 300 files: a quarter of a second on some disks, 20 ms in memory.
    """
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    about = os.statvfs(_MEMORY)
    if about.f_bavail * about.f_frsize > _ROOM and not about.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)


#: What needs servers, networks or processes of its own, or fills memory: `make test-servers`.
_SERVERS = (
    "cli/test_follow.py",
    "cli/test_metrics.py",
    "cli/test_output_encodings.py",
    "cli/test_processes.py",
    "cli/test_signals.py",
    "demo",
    "follow/test_crash.py",
    "pipeline/test_crash.py",
    "pipeline/test_forks.py",
    "pipeline/test_memory_budget.py",
    "pipeline/test_memory_limit.py",
    "pipeline/test_moved_servers.py",
    "pipeline/test_pg_upgrade.py",
    "pipeline/test_two_captures.py",
    "sources/postgres/errors",
    "sources/postgres/replication",
    "sources/postgres/server",
    "sources/postgres/setup/test_server.py",
    "sources/postgres/snapshot/test_locks.py",
    "sources/postgres/snapshot/test_stopped_copies.py",
    "sources/postgres/test_settings_of_roles.py",
    "sources/postgres/test_silence.py",
)
#: What runs jobs, sensors and assets of a Dagster instance: `make test-dagster`.
_DAGSTER = ("dagster", "examples/test_shop.py")
#: What runs dbt, which has an environment of its own: `make test-dbt`.
_DBT = ("examples/test_dbt.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        for marker, places in (("servers", _SERVERS), ("dagster", _DAGSTER), ("dbt", _DBT)):
            if any(path == place or path.startswith(f"{place}/") for place in places):
                item.add_marker(marker)
    from tests.support.postgres_fixtures import MAJOR_VERSIONS  # the plugin above is to be loaded first

    combinations: dict[str, list[pytest.Item]] = {}
    for item in items:
        # On other versions than the newest: `make test-versions`.
        if parameters(item).get("matrix_server", MAJOR_VERSIONS[-1]) != MAJOR_VERSIONS[-1]:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("each_value") and not item.get_closest_marker("slow"):
            combinations.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for twins in combinations.values():
        _leave_each_value(twins)


def _leave_each_value(items: list[pytest.Item]) -> None:
    """Mark combinations of parameters as slow, except the first few that have each value of every parameter."""
    values = {item: {(name, repr(value)) for name, value in parameters(item).items()} for item in items}
    missing = set().union(*values.values())
    while missing:
        chosen = max(values, key=lambda item: len(values[item] & missing))
        missing -= values.pop(chosen)
    for item in values:
        item.add_marker(pytest.mark.slow)


def parameters(item: pytest.Item) -> dict[str, Any]:
    """The parameters of a test, by name."""
    callspec = getattr(item, "callspec", None)
    return dict(callspec.params) if callspec else {}
