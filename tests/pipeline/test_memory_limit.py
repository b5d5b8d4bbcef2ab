"""Large transactions and wide rows in the memory that the settings give; `make soak` has them in their full sizes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.memory import MemoryLimit
from dbmazz_core.connectors.sinks.duckdb_sql.staging import Staging
from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import FlushConfig, SinkConfig, TableConfig
from tests.cli.command import Dbmazz
from tests.support.before import before
from tests.support.lab import Lab, toast, variant

MEGABYTE = 1_000_000
#: Text that no compression makes much smaller; {0} makes it another one, {1} is its length in parts of 32 characters.
TEXT = "(SELECT string_agg(md5({0}::text || i), '') FROM generate_series(1, {1}) AS i)"


@pytest.fixture
def replacing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Every transaction is too large for updates; the number of appliers that were told so."""
    asked = []

    def allows_updates(self: MemoryLimit, size: int) -> bool:
        asked.append(size)
        return False

    monkeypatch.setattr(MemoryLimit, "allows_updates", allows_updates)
    return lambda: len(asked)


STORIES = (
    # The key, other columns, everything; with values that PostgreSQL does not send, and with rows that come and go.
    "UPDATE t SET n = n + 1",
    f"UPDATE t SET big = {toast('new')}, n = 0 WHERE id = 2; UPDATE t SET n = 7 WHERE id IN (1, 3)",
    "UPDATE t SET id = id + 100 WHERE id < 3; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 44, 'again')",
    "DELETE FROM t WHERE id = 4",
    "INSERT INTO t VALUES (4, 45, 'and again'); UPDATE t SET f = '-0'; UPDATE u SET n = n + 1 WHERE n = 1",
    "UPDATE t SET f = '0', n = 5 WHERE id = 3; DELETE FROM u WHERE n = 3; INSERT INTO u VALUES (1), (1), (1)",
    "TRUNCATE u; UPDATE t SET n = -n; INSERT INTO u VALUES (9), (9)",
)


@pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])
@pytest.mark.parametrize("size", [1, 250_000])
def test_rows_are_replaced_as_they_would_be_updated(
    lab: Lab, mode: Mode, size: int, replacing: Callable[[], int]
) -> None:
    lab = lab.kept(mode).configured(flush=FlushConfig(size=size))
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text, f float8 DEFAULT 0);"
        f"INSERT INTO t VALUES (1, 1, {toast('one')}), (2, 2, {toast('two')}), (3, 3, NULL), (4, 4, '');"
        "CREATE TABLE u (n int); ALTER TABLE u REPLICA IDENTITY FULL;"
        "INSERT INTO u SELECT i % 4 FROM generate_series(1, 20) i"
    )
    lab.capture_and_compare("t", "u")
    for story in STORIES:
        lab.transactions(*(part.strip() for part in story.split(";")))
        lab.capture_and_compare("t", "u")
    lab.transactions(*STORIES)
    lab.capture_and_compare("t", "u")
    assert replacing() > len(STORIES)


def test_soft_deleted_rows_have_the_same_marks(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two destinations of one source, of which one replaces rows."""
    lab = lab.kept(Mode.SOFT_DELETE)
    lab.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, n int, big text); INSERT INTO t VALUES (1, 1, {toast(1)}), (2, 2, '')"
    )
    other = lab.configured(slot=f"{lab.slot}_other", source={"publication": "other"})
    other.path = tmp_path / "other.duckdb"
    lab.capture()
    other.capture()
    lab.transactions("UPDATE t SET n = 5", "DELETE FROM t WHERE id = 1", "UPDATE t SET n = 6")
    lab.capture()
    monkeypatch.setattr(MemoryLimit, "allows_updates", lambda self, size: False)
    other.capture()
    rows = "SELECT * EXCLUDE (_dbmazz_synced_at) FROM public.t ORDER BY id"
    assert lab.rows(rows) == other.rows(rows)


def _limited(lab: Lab, memory: int, flush_bytes: int) -> Dbmazz:
    dbmazz = Dbmazz.of(lab.database, lab.path, lab.tables)
    dbmazz.variables |= {
        "SOURCE_SLOT_NAME": lab.slot,
        "SOURCE_PUBLICATION_NAME": lab.config.publication_name,
        "SINK_MEMORY_LIMIT": str(memory),
        "FLUSH_MAX_BYTES": str(flush_bytes),
    }
    return dbmazz


def _rewrite(lab: Lab, rows: int) -> None:
    lab.execute(
        "CREATE TABLE h (id int PRIMARY KEY, n int DEFAULT 0, t text); ALTER TABLE h ALTER t SET STORAGE plain;"
        f"INSERT INTO h (id, t) SELECT g, {TEXT.format('g', 62)} FROM generate_series(1, {rows}) g"
    )


@pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])
def test_transaction_that_rewrites_more_than_the_memory(lab: Lab, mode: Mode) -> None:
    _rewrite(lab, 40_000)
    dbmazz = _limited(lab, 64 * MEGABYTE, 2 * MEGABYTE)
    dbmazz.variables["MODE"] = mode.value
    dbmazz.run_in_process("capture")
    lab.execute("UPDATE h SET t = t || 'x'; UPDATE h SET n = 1 WHERE id % 3 = 0; DELETE FROM h WHERE id % 100 = 0")
    dbmazz.run_in_process("capture")
    lab.kept(mode).assert_equal("h")


def test_wide_rows_in_many_transactions(lab: Lab) -> None:
    lab.execute("CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external")
    dbmazz = _limited(lab, 64 * MEGABYTE, 2 * MEGABYTE)
    dbmazz.run_in_process("capture")
    lab.transactions(
        *(
            f"INSERT INTO w SELECT g, {TEXT.format('g', 2500)} FROM generate_series({n}, {n + 9}) g"
            for n in range(0, 900, 10)
        )
    )
    dbmazz.run_in_process("capture")
    lab.assert_equal("w")


@pytest.mark.parametrize("mode", [Mode.MIRROR, Mode.SOFT_DELETE])
@pytest.mark.parametrize("statement", ["INSERT", "UPDATE"])
def test_transaction_with_more_wide_rows_than_the_memory(lab: Lab, mode: Mode, statement: str) -> None:
    """The table is copied again; the others follow the transaction."""
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external;"
        "CREATE TABLE other (id int PRIMARY KEY)"
    )
    if statement == "UPDATE":
        lab.execute("INSERT INTO w SELECT g, 'short' FROM generate_series(1, 900) g")
    dbmazz = _limited(lab, 64 * MEGABYTE, 2 * MEGABYTE)
    dbmazz.variables["MODE"] = mode.value
    dbmazz.run_in_process("capture")
    wide = TEXT.format("id", 2500)
    lab.execute(
        (
            f"INSERT INTO w SELECT id, {wide} FROM generate_series(1, 900) id;"
            if statement == "INSERT"
            else f"UPDATE w SET t = {wide};"
        )
        + "INSERT INTO other VALUES (1)"
    )
    result = dbmazz.json("capture")
    assert "more wide rows" in result["copied_anew"]["public.w"]
    assert result["tables"]["public.other"]["inserts"] == 1
    lab.kept(mode).assert_equal("w", "other")
    lab.execute("UPDATE w SET t = 'short again' WHERE id > 5; DELETE FROM w WHERE id = 1; INSERT INTO other VALUES (2)")
    assert dbmazz.json("capture")["copied_anew"] == {}
    lab.kept(mode).assert_equal("w", "other")


def test_changelog_with_more_wide_changes_than_the_memory_stops_alone(lab: Lab) -> None:
    """No copy brings its changes back: a person decides."""
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external;"
        "CREATE TABLE other (id int PRIMARY KEY)"
    )
    dbmazz = _limited(lab, 64 * MEGABYTE, 2 * MEGABYTE)
    dbmazz.variables["MODE"] = "changelog"
    dbmazz.run_in_process("capture")
    lab.execute(
        f"INSERT INTO w SELECT id, {TEXT.format('id', 2500)} FROM generate_series(1, 900) id;"
        "INSERT INTO other VALUES (1)"
    )
    for _ in range(2):
        state = dbmazz.json("capture", code=8)["table_states"]["public.w"]
        assert state["state"] == "failed"
        assert "more wide rows" in state["reason"]
        assert "SINK_MEMORY_LIMIT" in state["remedy"]
        lab.kept(Mode.CHANGELOG).assert_equal("other")
    dbmazz.variables["SINK_MEMORY_LIMIT"] = "500MB"
    dbmazz.run_in_process("snapshot", "--tables", "public.w")
    dbmazz.run_in_process("capture")
    lab.kept(Mode.CHANGELOG).assert_equal("w", "other")


@pytest.mark.parametrize("quarantined", [False, True])
def test_copy_whose_wide_rows_come_after_others(lab: Lab, quarantined: bool) -> None:
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, t text, d timestamp); ALTER TABLE w ALTER t SET STORAGE external;"
        "INSERT INTO w SELECT g, 'short', CASE WHEN g % 10000 = 1 THEN '294276-01-01'::timestamp END "
        "FROM generate_series(1, 100000) g;"
        f"INSERT INTO w SELECT -g, {TEXT.format('g', 2500)} FROM generate_series(1, 900) g"
    )
    dbmazz = _limited(lab, 64 * MEGABYTE, 2 * MEGABYTE)
    if quarantined:
        dbmazz.variables["ON_BAD_VALUE"] = "quarantine"
    else:
        lab.execute("UPDATE w SET d = NULL WHERE d IS NOT NULL")
    rows = dbmazz.json("capture")["tables"]["public.w"]["snapshot_rows"]
    if quarantined:
        assert rows == 100_900 - 10
        assert lab.rows("SELECT count(*), count(DISTINCT row) FROM _dbmazz.quarantine") == [(10, 10)]
        lab.execute("DELETE FROM w WHERE d IS NOT NULL")
        dbmazz.run_in_process("capture")
    lab.assert_equal("w")


@pytest.mark.parametrize("mode", [Mode.MIRROR, variant(Mode.SOFT_DELETE), variant(Mode.CHANGELOG)])
def test_copy_of_wide_rows(lab: Lab, mode: Mode) -> None:
    """The first copy, and the next one, which keeps what the mode keeps."""
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external;"
        f"INSERT INTO w SELECT g, {TEXT.format('g', 2500)} FROM generate_series(1, 900) g"
    )
    dbmazz = _limited(lab, 64 * MEGABYTE, 2 * MEGABYTE)
    dbmazz.variables["MODE"] = mode.value
    dbmazz.run_in_process("capture")
    lab = lab.kept(mode)
    lab.assert_equal("w")
    lab.execute("DELETE FROM w WHERE id > 800; INSERT INTO w VALUES (0, 'short')")
    if mode is Mode.MIRROR:
        dbmazz.run_in_process("snapshot")
        lab.assert_equal("w")
    dbmazz.run_in_process("capture")
    lab.assert_equal("w")
    assert lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'") == [("w",)]


def test_copy_of_wide_rows_that_is_killed_or_fails(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see the old rows until the end, and the next copy removes what a killed one has left."""
    wide = lab.configured(sink=SinkConfig(url=str(lab.path), memory_limit=64 * MEGABYTE))
    lab.execute("CREATE TABLE w (id int PRIMARY KEY, t text, d timestamp); INSERT INTO w VALUES (1, 'old', NULL)")
    lab.capture_and_compare("w")
    lab.execute(f"UPDATE w SET t = {TEXT.format(1, 9000)}, d = '294276-01-01'")
    with pytest.raises(BadValue, match=r"public\.w\b"):
        wide.pipeline.snapshot()
    assert lab.rows("SELECT id, t FROM public.w") == [(1, "old")]
    assert lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'") == [("w",)]
    lab.execute("UPDATE w SET d = NULL")
    with monkeypatch.context() as patched:
        patched.setattr(Staging, "drop", lambda self: None)  # as if killed
        before(patched, Staging, "swap", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wide.pipeline.snapshot()
    assert len(lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'")) == 2
    lab.execute("CREATE TABLE other (id int PRIMARY KEY)")
    wide.pipeline.snapshot()
    lab.assert_equal("w", "other")
    assert len(lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'")) == 2


def test_copy_of_wide_rows_that_is_altered_meanwhile_leaves_no_other_table(lab: Lab) -> None:
    wide = lab.configured(sink=SinkConfig(url=str(lab.path), memory_limit=64 * MEGABYTE))
    lab.execute("CREATE TABLE w (id int PRIMARY KEY, t text)")
    lab.execute(f"INSERT INTO w SELECT g, {TEXT.format('g', 9000)} FROM generate_series(1, 5) g")
    changes = ["ALTER TABLE w ADD COLUMN n int DEFAULT 4"]

    def meanwhile(progress: Any) -> None:
        if progress.phase == "snapshot" and changes:
            lab.execute(changes.pop())

    wide.pipeline.capture(progress=meanwhile)
    assert not changes
    lab.assert_equal("w")
    assert lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'") == [("w",)]


def test_copy_of_wide_rows_of_a_table_that_is_named_like_the_one_for_copies(lab: Lab) -> None:
    lab = lab.configured(sink=SinkConfig(url=str(lab.path), memory_limit=64 * MEGABYTE))
    names = ("_dbmazz_copy", "_dbmazz_copy_2", "w")
    for name in names:
        lab.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, t text)")
        lab.execute(f"INSERT INTO {name} SELECT g, {TEXT.format('g', 9000)} FROM generate_series(1, 5) g")
    lab.capture_and_compare(*names)
    lab.pipeline.snapshot()
    lab.assert_equal(*names)
    assert lab.rows("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'public' AND comment IS NULL") == [(3,)]


def test_quarantine_of_wide_rows(lab: Lab) -> None:
    policy = TableConfig(on_bad_value=ByTable(BadValuePolicy.QUARANTINE))
    lab = lab.configured(tables=policy, sink=SinkConfig(url=str(lab.path), memory_limit=64 * MEGABYTE))
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, t text, d timestamp);"
        f"INSERT INTO w SELECT g, {TEXT.format('g', 9000)} FROM generate_series(1, 100) g;"
        "UPDATE w SET d = '294276-01-01' WHERE id IN (98, 99)"
    )
    assert lab.capture().tables[lab.ref("w")].quarantined == 2
    assert lab.rows("SELECT count(*) FROM public.w") == [(98,)]
    assert lab.rows("SELECT count(*) FROM _dbmazz.quarantine") == [(2,)]


# -- in full size, with the default settings


def _peak(dbmazz: Dbmazz, *arguments: str) -> tuple[int, float]:
    """Run a command; the peak of its memory in MB, and the seconds that it took."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(
        dbmazz.command(*arguments), env=dbmazz.environment, cwd=dbmazz.directory, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        values = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        peak = max(peak, *map(int, values), 0)
        time.sleep(0.05)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return peak >> 10, time.monotonic() - started


def _default(lab: Lab) -> Dbmazz:
    dbmazz = Dbmazz.of(lab.database, lab.path, lab.tables)
    dbmazz.variables |= {
        "SOURCE_SLOT_NAME": lab.slot,
        "SOURCE_PUBLICATION_NAME": lab.config.publication_name,
    }
    return dbmazz


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_transaction_that_rewrites_a_gigabyte(lab: Lab, record_property: Callable[[str, Any], None]) -> None:
    _rewrite(lab, 500_000)
    _default(lab).run_in_process("capture")
    lab.execute("UPDATE h SET t = t || 'x'")
    peak, seconds = _peak(_default(lab), "capture")
    record_property("peak_mb", peak)
    record_property("seconds", seconds)
    lab.assert_equal("h")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_gigabyte_of_wide_rows_in_many_transactions(lab: Lab, record_property: Callable[[str, Any], None]) -> None:
    lab.execute("CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external")
    _default(lab).run_in_process("capture")
    lab.transactions(*(f"INSERT INTO w VALUES ({n}, {TEXT.format(n, 31_250)})" for n in range(1200)))
    peak, seconds = _peak(_default(lab), "capture")
    record_property("peak_mb", peak)
    record_property("seconds", seconds)
    ((rows, size),) = lab.rows("SELECT count(*), sum(strlen(t)) FROM public.w")
    assert (rows, size) == (1200, 1200 * MEGABYTE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_gigabyte_of_wide_rows_in_one_transaction(lab: Lab, record_property: Callable[[str, Any], None]) -> None:
    lab.execute("CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external")
    _default(lab).run_in_process("capture")
    lab.execute(f"INSERT INTO w SELECT g, {TEXT.format('g', 31_250)} FROM generate_series(1, 1200) g")
    peak, seconds = _peak(_default(lab), "capture")
    record_property("peak_mb", peak)
    record_property("seconds", seconds)
    ((rows, size),) = lab.rows("SELECT count(*), sum(strlen(t)) FROM public.w")
    assert (rows, size) == (1200, 1200 * MEGABYTE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_copy_of_a_gigabyte_of_wide_rows(lab: Lab, record_property: Callable[[str, Any], None]) -> None:
    lab.execute(
        "CREATE TABLE w (id int PRIMARY KEY, t text); ALTER TABLE w ALTER t SET STORAGE external;"
        f"INSERT INTO w SELECT g, {TEXT.format('g', 31_250)} FROM generate_series(1, 1500) g"
    )
    peak, seconds = _peak(_default(lab), "capture")
    record_property("peak_mb", peak)
    record_property("seconds", seconds)
    ((rows, size),) = lab.rows("SELECT count(*), sum(strlen(t)) FROM public.w")
    assert (rows, size) == (1500, 1500 * MEGABYTE)


#: Rows of the large transaction, in full; `MEMORY_TEST_ROWS` makes it another one.
_NARROW_ROWS = int(os.environ.get("MEMORY_TEST_ROWS", "10_000_000"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_peak_does_not_grow_with_the_rows_of_a_transaction(
    lab: Lab, record_property: Callable[[str, Any], None]
) -> None:
    lab.execute("CREATE TABLE n (id int PRIMARY KEY, a int, b text)")
    _default(lab).run_in_process("capture")
    for share in (10, 1):
        rows = _NARROW_ROWS // share
        lab.execute(f"TRUNCATE n; INSERT INTO n SELECT g, g % 1000, 'row ' || g FROM generate_series(1, {rows}) g")
        peak, seconds = _peak(_default(lab), "capture")
        record_property(f"peak_mb_{rows}", peak)
        record_property(f"seconds_{rows}", seconds)
        assert peak < 600
    assert lab.rows("SELECT count(*), sum(id) FROM n") == [(_NARROW_ROWS, _NARROW_ROWS * (_NARROW_ROWS + 1) // 2)]
