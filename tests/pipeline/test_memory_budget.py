"""`MEMORY_LIMIT`: one budget, its division, and what exceeds it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.memory import MOST_BYTES, MemoryLimit
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.memory import PROGRAM_BYTES, SMALLEST_LIMIT, MemoryConfig
from tests.cli.command import Dbmazz
from tests.support.lab import Lab

GIVEN = {"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"}
MEGABYTE = 1_000_000
#: Text that no compression makes much smaller; {0} makes it another one, {1} is its length in parts of 32 characters.
TEXT = "(SELECT string_agg(md5({0}::text || i), '') FROM generate_series(1, {1}) AS i)"


def test_shares_follow_the_limit_unless_they_are_set() -> None:
    assert MemoryConfig().limit == 512 << 20
    assert Settings.from_env(GIVEN).flush_limits.max_bytes == MemoryConfig().flush_bytes
    assert (
        Settings.from_env(GIVEN | {"MEMORY_LIMIT": "1GB"}).flush_limits.max_bytes == MemoryConfig(1 << 30).flush_bytes
    )
    given = Settings.from_env(GIVEN | {"FLUSH_MAX_BYTES": "3MB", "SINK_MEMORY_LIMIT": "2GB"})
    assert (given.flush_limits.max_bytes, given.sink.memory_limit) == (3 << 20, 2 << 30)


@pytest.mark.parametrize("limit", [SMALLEST_LIMIT, 512 << 20, 1 << 30, 8 << 30])
def test_shares_are_less_than_the_limit_together(limit: int) -> None:
    memory = MemoryConfig(limit)
    assert PROGRAM_BYTES + memory.sink_bytes + 4 * memory.flush_bytes <= limit


def test_limit_that_is_too_small_names_the_smallest_one() -> None:
    with pytest.raises(ConfigError, match="MEMORY_LIMIT is 100MB, and 320MB is the smallest that works") as raised:
        Settings.from_env(GIVEN | {"MEMORY_LIMIT": "100MB"})
    assert raised.value.object == "MEMORY_LIMIT"
    assert "320MB" in raised.value.remedy


def _dbmazz(lab: Lab, **variables: str) -> Dbmazz:
    dbmazz = Dbmazz.of(lab.database, lab.path, lab.tables)
    dbmazz.variables |= {
        "SOURCE_SLOT_NAME": lab.slot,
        "SOURCE_PUBLICATION_NAME": lab.config.publication_name,
        **variables,
    }
    return dbmazz


def _peak_mb(dbmazz: Dbmazz) -> int:
    """Run a capture; return the peak of its memory, in MB."""
    peak = 0
    process = subprocess.Popen(
        dbmazz.command("capture"), env=dbmazz.environment, cwd=dbmazz.directory, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(0.02)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return peak


def test_commit_that_has_no_room_is_repeated_with_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB reads wide rows that the table had before, whatever a narrow change is."""
    grown = []
    grow = MemoryLimit.grow
    monkeypatch.setattr(MemoryLimit, "grow", lambda self: grown.append(grow(self)) or grown[-1])
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, n int DEFAULT 0, t text); ALTER TABLE w ALTER t SET STORAGE external"
    )
    lab.capture()
    lab.execute(f"INSERT INTO w SELECT g, 0, {TEXT.format('g', 6000)} FROM generate_series(1, 800) g")
    lab.capture_and_compare("w")
    assert grown == []  # the rows that come tell by themselves
    small = lab.configured(memory=MemoryConfig(SMALLEST_LIMIT))
    lab.execute("UPDATE w SET n = n + 1 WHERE id % 3 = 0; INSERT INTO w SELECT g FROM generate_series(1000, 1100) g")
    small.capture_and_compare("w")
    assert grown
    assert grown[0]


def test_limit_grows_for_wide_rows_only() -> None:
    import polars as pl

    memory = MemoryLimit(124 << 20, grows=True)
    memory.make_room(pl.DataFrame({"c0": ["x" * 8000] * 100}))
    assert memory.limit == 124 << 20
    memory.make_room(pl.DataFrame({"c0": ["x" * 50_000] * 100}))
    assert 400_000_000 < memory.limit < 420_000_000
    memory.make_room(pl.DataFrame({"c0": ["x" * 1_000_000] * 100}))
    assert memory.limit == MOST_BYTES
    memory.reset()
    assert memory.limit == 124 << 20
    given = MemoryLimit(64 << 20)
    given.make_room(pl.DataFrame({"c0": ["x" * 1_000_000] * 100}))
    assert given.limit == 64 << 20
    assert not given.grow()


def test_one_large_value_takes_few_times_its_size(lab: Lab) -> None:
    """polars copies the value of a frame with one row at nearly every step: it took seven times its size."""
    size = 64
    lab.execute("CREATE TABLE v (id int PRIMARY KEY, t text); ALTER TABLE v ALTER t SET STORAGE external")
    small = _peak_mb(_dbmazz(lab))
    lab.execute(f"INSERT INTO v VALUES (1, repeat('abcdefghij', {size} * 100000))")
    assert _peak_mb(_dbmazz(lab)) - small < 5 * size
    lab.assert_equal("v")
    copied = Lab.configured(lab, slot=f"{lab.slot}_other", source={"publication": "other"})
    copied.path = lab.path.with_name("other.duckdb")
    assert _peak_mb(_dbmazz(copied)) - small < 5 * size
    copied.assert_equal("v")
