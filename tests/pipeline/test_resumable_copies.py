"""A copy of a large table that was killed or stopped resumes at its finished ranges, under a new snapshot."""

from __future__ import annotations

import itertools
import random
import re
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import polars as pl
import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.memory import MemoryLimit
from dbmazz_core.connectors.sinks.duckdb_sql.staged_copy import DuckDBStagedCopy
from dbmazz_core.connectors.sources.postgres.snapshot.copy_connection import CopyConnection
from dbmazz_core.connectors.sources.postgres.snapshot.tables import TableSnapshot
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason
from dbmazz_core.errors import BadValue, DiskFull, ReplicationInterrupted
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.copy_progress import CopyProgress
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import SnapshotConfig
from tests.support.before import before
from tests.support.following import Follower
from tests.support.lab import Lab, toast, variant
from tests.support.worker_process import Worker

ROWS = 2_400
#: PostgreSQL believes that the table has more rows: small ones are copied in one transaction.
ESTIMATED_ROWS, CHUNK = 12_000, 1_000
#: A page holds few rows, and one in a hundred has a value out of line.
SETUP = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, pad text, big text) WITH (autovacuum_enabled = false, fillfactor = 80);"
    f"INSERT INTO t SELECT i, 0, repeat('x', 200), CASE WHEN i % 100 = 0 THEN v END "
    f"FROM generate_series(1, {ROWS}) i, {toast('t')} v(v)"
)


def analyze(lab: Lab) -> None:
    lab.transactions("ANALYZE t", f"UPDATE pg_class SET reltuples = {ESTIMATED_ROWS} WHERE oid = 't'::regclass")


#: Inserts, updates that send no big value, deletes, keys that change, rows that move to the end and to freed places.
TRAFFIC = (
    "UPDATE t SET n = n + 1 WHERE id % 7 = 0",
    "DELETE FROM t WHERE id % 11 = 0",
    "UPDATE t SET id = -id WHERE id % 13 = 0",
    "INSERT INTO t SELECT i, 1, 'new', NULL FROM generate_series(20001, 20200) i",
    "UPDATE t SET n = 5 WHERE id % 100 = 0",
    "DELETE FROM t WHERE id BETWEEN 300 AND 310;"
    "INSERT INTO t SELECT i, 2, 'again', 'b' FROM generate_series(300, 310) i",
)


@dataclass
class Copied:
    """What a window reports of its copy."""

    messages: list[str] = field(default_factory=list)
    kept: int = 0

    def __call__(self, report: Progress) -> None:
        if report.phase == "snapshot":
            self.messages += [report.message] if report.message else []
            self.kept = max(self.kept, report.kept)

    @property
    def resumed(self) -> bool:
        return any("resumes at" in message for message in self.messages)


@pytest.fixture
def large(lab: Lab) -> Lab:
    """A table of twelve ranges."""
    lab = in_parts(lab)
    lab.execute(SETUP)
    analyze(lab)
    return lab


def in_parts(lab: Lab) -> Lab:
    return lab.configured(snapshot=SnapshotConfig(chunk_size=CHUNK, parallel_workers=1))


def kill(lab: Lab, ranges: int = 5) -> None:
    """Kill a capture once it has committed so many ranges."""
    kill_after(lab, ranges, "1")
    assert len(finished(lab)) == ranges


def finished(lab: Lab) -> list[list[int | None]]:
    rows = lab.rows("SELECT unnest(finished::JSON[]) FROM _dbmazz.copies")
    return [row for (row,) in rows]


def leftovers(lab: Lab) -> list[str]:
    tables = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public' AND table_name LIKE '_dbmazz_copy%'"
    return [name for (name,) in lab.rows(f"{tables} UNION ALL SELECT mark FROM _dbmazz.copies")]


def resume(lab: Lab, *tables: str) -> Copied:
    """Capture and compare; what was reported."""
    copied = Copied()
    lab.capture(progress=copied)
    lab.assert_equal(*tables or ("t",))
    assert leftovers(lab) == []
    return copied


def test_a_killed_copy_resumes_at_its_finished_ranges(large: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a new snapshot: that of the killed process has gone, and rows have changed and moved since.

    Only what was written since is read again, and the other ranges.
    """
    kill(large)
    large.transactions(*TRAFFIC)
    queries = noted_queries(monkeypatch)
    copied = resume(large)
    ((message,),) = [copied.messages]
    assert re.fullmatch(r"copying public\.t resumes at 5 of 1[2-5] ranges", message)
    assert ROWS / 6 < copied.kept < ROWS / 2.4
    again, whole = [q for q in queries if "age(xmin)" in q], [q for q in queries if "age(xmin)" not in q]
    assert len(again) == 10  # the keys and the rows of each finished range
    assert 7 <= len(whole) <= 10
    large.transactions(*TRAFFIC[:2], *TRAFFIC[4:])
    large.capture_and_compare("t")


def noted_queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that read rows from now on."""
    queries: list[str] = []
    rows = CopyConnection.rows

    def noted(self: CopyConnection, query: str, *arguments: Any) -> Any:
        queries.append(query)
        return rows(self, query, *arguments)

    monkeypatch.setattr(CopyConnection, "rows", noted)
    return queries


class Killed(BaseException):
    """What ends a run in this process as a kill would."""


def die_after(monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """Let the next run end after so many commits of a large table, some of its next rows loaded already."""
    commit, append, left = DuckDBStagedCopy.commit, DuckDBStagedCopy.append, [commits]

    def counted(self: DuckDBStagedCopy, progress: CopyProgress) -> None:
        commit(self, progress)
        left[0] -= 1

    def dying(self: DuckDBStagedCopy, rows: pl.DataFrame, lsn: Lsn) -> None:
        append(self, rows, lsn)
        if left[0] <= 0:
            raise Killed

    monkeypatch.setattr(DuckDBStagedCopy, "commit", counted)
    monkeypatch.setattr(DuckDBStagedCopy, "append", dying)


def died(lab: Lab, commits: int) -> None:
    """A run that ends after so many commits of a large table."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        die_after(monkeypatch, commits)
        with pytest.raises(Killed):
            lab.capture()


def test_a_stopped_copy_resumes(large: Lab) -> None:
    stop = threading.Event()

    def look(report: Progress) -> None:
        if report.rows > ROWS / 4:
            stop.set()

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("dbmazz_core.engine.resumable_copies.REPORT_S", 0)
        assert large.capture(stop=stop, progress=look).stop_reason is StopReason.STOP_REQUESTED
    assert 2 <= len(finished(large)) < 12
    large.transactions(*TRAFFIC)
    assert resume(large).resumed


@pytest.mark.parametrize(
    "between",
    [
        variant("TRUNCATE t"),
        "TRUNCATE t; INSERT INTO t SELECT i, 7, 'x', NULL FROM generate_series(1, 13000) i",
        "VACUUM FULL t",
        variant("ALTER TABLE t ADD COLUMN later int DEFAULT 5"),
        variant("ALTER TABLE t ALTER COLUMN n TYPE bigint"),
        variant("ALTER TABLE t DROP COLUMN pad; ALTER TABLE t ADD COLUMN pad text"),
        variant(
            "ALTER TABLE t RENAME TO other; CREATE TABLE t (LIKE other INCLUDING ALL);"
            "INSERT INTO t SELECT * FROM other; DROP TABLE other"
        ),
    ],
)
def test_a_table_that_was_rewritten_or_altered_starts_over(large: Lab, between: str) -> None:
    died(large, 3)
    large.transactions(*TRAFFIC[:2], between)
    assert not resume(large).resumed


@pytest.mark.parametrize(
    "mark",
    [
        variant("""json_merge_patch(mark, '{"dbmazz": "another"}')"""),
        variant("""json_merge_patch(mark, '{"server": []}')"""),
        variant("""json_merge_patch(mark, '{"lsn": "FFFFFFFF/0"}')"""),
        variant("""json_merge_patch(mark, '{"xmin": 4000000000}')"""),
        """json_merge_patch(mark, '{"xmin": -2000000000}')""",
    ],
)
def test_what_another_server_or_version_has_copied_is_not_trusted(large: Lab, mark: str) -> None:
    died(large, 3)
    with duckdb.connect(str(large.path)) as connection:
        connection.execute(f"UPDATE _dbmazz.copies SET mark = {mark}")
    assert not resume(large).resumed


@pytest.mark.parametrize(
    "by_hand",
    [
        "DELETE FROM public._dbmazz_copy WHERE id = 5",
        variant("INSERT INTO public._dbmazz_copy FROM public._dbmazz_copy LIMIT 1"),
        variant("DROP TABLE public._dbmazz_copy"),
        variant("ALTER TABLE public._dbmazz_copy DROP COLUMN n"),
    ],
)
def test_rows_that_somebody_changed_are_not_trusted(large: Lab, by_hand: str) -> None:
    died(large, 3)
    with duckdb.connect(str(large.path)) as connection:
        connection.execute(by_hand)
    assert not resume(large).resumed


@pytest.mark.parametrize(
    "key",
    [
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t REPLICA IDENTITY FULL",
        variant("ALTER TABLE t ALTER COLUMN id TYPE float8"),
    ],
)
def test_a_table_without_a_plain_key_is_copied_in_one_transaction(large: Lab, key: str) -> None:
    large.execute(key)
    analyze(large)
    with pytest.MonkeyPatch.context() as monkeypatch:
        die_after(monkeypatch, 0)
        large.capture_and_compare("t")  # has no range of its own
    assert leftovers(large) == []


@pytest.mark.parametrize(
    "key",
    [
        variant("ALTER TABLE t ALTER COLUMN id TYPE text"),
        "ALTER TABLE t ALTER COLUMN id TYPE text; ALTER TABLE t DROP CONSTRAINT t_pkey;"
        "UPDATE t SET pad = id, n = id::int % 3; ALTER TABLE t ADD PRIMARY KEY (pad, n)",
        variant("ALTER TABLE t ALTER COLUMN id TYPE date USING date '2000-01-01' + id"),
    ],
)
def test_keys_of_other_types(large: Lab, key: str) -> None:
    large.transactions(*key.split(";"))
    analyze(large)
    died(large, 4)
    large.transactions(
        "UPDATE t SET big = 'b' WHERE n = 0 AND hashtext(id::text) % 5 = 0",
        "DELETE FROM t WHERE hashtext(id::text) % 7 = 0",
    )
    assert resume(large).resumed


@pytest.mark.slow
def test_an_old_row_whose_transaction_id_looks_newer_is_read_again(large: Lab) -> None:
    """`age` counts modulo 2^32. A wrong answer costs time, and no row."""
    died(large, 3)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            "dbmazz_core.connectors.sources.postgres.snapshot.resumable._written_since", lambda _: "(id % 2 = 0)"
        )
        copied = resume(large)
    assert copied.resumed
    assert ROWS / 12 < copied.kept < ROWS / 6


def test_a_table_that_is_copied_again_keeps_its_rows_until_the_end(large: Lab) -> None:
    """Also beside the stream, which brings changes of the table between the two snapshots."""
    large.execute("CREATE TABLE u (id int PRIMARY KEY)")
    large.capture_and_compare("t", "u")
    rows = large.rows("SELECT sum(id), sum(n), count(*) FROM public.t")
    with pytest.MonkeyPatch.context() as monkeypatch:
        die_after(monkeypatch, 4)
        large.execute("UPDATE t SET n = 9 WHERE id % 3 = 0")
        with pytest.raises(Killed):
            large.capture(resnapshot=(large.ref("t"),))
    assert large.rows("SELECT sum(id), sum(n), count(*) FROM public.t") == rows
    assert len(finished(large)) == 4
    large.transactions(*TRAFFIC, "INSERT INTO u SELECT generate_series(1, 100)")

    class Late(Copied):
        """Changes the table while it is copied."""

        def __call__(self, report: Progress) -> None:
            Copied.__call__(self, report)
            if report.message:
                large.transactions("INSERT INTO u VALUES (-1)", TRAFFIC[0], TRAFFIC[4], "DELETE FROM t WHERE id = 1")

    copied = Late()
    large.capture(progress=copied)
    assert copied.resumed
    large.assert_equal("t", "u")
    assert leftovers(large) == []


def test_follow_resumes_a_copy(large: Lab) -> None:
    died(large, 4)
    large.transactions(*TRAFFIC)
    with Follower(large) as follower:
        large.transactions(TRAFFIC[0], TRAFFIC[4])
        follower.catch_up()
        follower.assert_equal("t")
        assert any("resumes at" in message for message in follower.messages)
    assert leftovers(large) == []


def test_rows_that_were_deleted_stay_in_mode_soft_delete(large: Lab) -> None:
    kept = large.kept(Mode.SOFT_DELETE)
    kept.capture()
    with pytest.MonkeyPatch.context() as monkeypatch:
        die_after(monkeypatch, 4)
        with pytest.raises(Killed):
            kept.capture(resnapshot=(large.ref("t"),))
    large.transactions(*TRAFFIC)
    assert resume(kept).resumed
    gone = {id for (id,) in kept.rows("SELECT id FROM public.t WHERE _dbmazz_deleted")}
    assert gone == {*range(1, ROWS + 1)} - {id for (id,) in kept.database.fetch("SELECT id FROM t")}
    kept.transactions(*TRAFFIC[:2])
    kept.capture_and_compare("t")


@pytest.mark.slow
def test_a_changelog_starts_over(large: Lab) -> None:
    kept = large.kept(Mode.CHANGELOG)
    with pytest.MonkeyPatch.context() as monkeypatch:
        die_after(monkeypatch, 0)
        kept.capture_and_compare("t")


@pytest.mark.parametrize("what", ["pause", "remove"])
def test_what_nobody_needs_any_more_is_dropped(large: Lab, what: str) -> None:
    large.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    large.capture()
    with pytest.MonkeyPatch.context() as monkeypatch:
        die_after(monkeypatch, 2)
        with pytest.raises(Killed):
            large.capture(resnapshot=(large.ref("t"),))
    assert len(leftovers(large)) == 2
    if what == "pause":
        large.pipeline.pause([large.ref("t")])
    else:
        replace(large, tables="public.u").capture()
    assert leftovers(large) == []


def test_many_wide_rows(large: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range is committed in pieces; if too many were written since, the copy starts over."""
    monkeypatch.setattr(MemoryLimit, "wide_bytes", lambda self, frame: frame.estimated_size())
    monkeypatch.setattr(MemoryLimit, "has_room", lambda self, size: size < 300_000)
    large.execute("ALTER TABLE t ALTER COLUMN pad SET STORAGE PLAIN")
    died(large, 9)
    large.execute("UPDATE t SET n = 3 WHERE id < 10")
    assert resume(large).resumed


@pytest.mark.parametrize("seed", [1, *map(variant, range(2, 9))])
def test_any_traffic_and_any_number_of_deaths(large: Lab, seed: int) -> None:
    chance = random.Random(seed)
    workers = chance.choice([1, 2])
    lab = large.configured(snapshot=SnapshotConfig(chunk_size=CHUNK, parallel_workers=workers))
    resumed = 0
    for number in range(4):
        with pytest.MonkeyPatch.context() as monkeypatch:
            die_after(monkeypatch, chance.randint(1, 3))
            copied = Copied()
            with pytest.raises(Killed):
                lab.capture(progress=copied)
        resumed += copied.resumed
        lab.transactions(*traffic(chance, number))
        analyze(lab)
    assert resumed == 3
    copied = Copied()
    lab.capture(progress=copied)
    assert copied.resumed
    lab.assert_equal("t")
    lab.transactions(*traffic(chance, 9))
    lab.capture_and_compare("t")


def traffic(chance: random.Random, number: int) -> list[str]:
    """Some transactions; VACUUM frees places in finished ranges, and freezes rows."""
    part = f"hashint4(id + {chance.randint(1, 99)}) % {chance.randint(5, 60)} = 0"
    first = 100_000 * (number + 1)
    kinds = [
        f"UPDATE t SET n = n + 1 WHERE {part}",
        f"UPDATE t SET big = {toast(number)} WHERE {part} AND id % 20 = 0",
        f"UPDATE t SET id = id + {first} WHERE {part}",
        f"UPDATE t SET id = -id WHERE {part}",
        f"DELETE FROM t WHERE {part}",
        f"WITH gone AS (DELETE FROM t WHERE {part} RETURNING *) INSERT INTO t SELECT * FROM gone",
        f"BEGIN; UPDATE t SET n = -1 WHERE {part}; ROLLBACK",
        f"BEGIN; SAVEPOINT a; UPDATE t SET n = 77 WHERE {part}; RELEASE a; SAVEPOINT b; DELETE FROM t; ROLLBACK TO b;"
        "COMMIT",
        f"INSERT INTO t SELECT {first} - i, {number}, repeat('y', i), NULL FROM generate_series(1, 100) i "
        "ON CONFLICT DO NOTHING",
        "VACUUM t",
        "VACUUM FREEZE t",
    ]
    return chance.choices(kinds, k=4)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_again_and_again(large: Lab, workers: str) -> None:
    chance = random.Random(int(workers))
    for number in range(4):
        kill_after(large, chance.randint(1, 3), workers)
        large.transactions(*traffic(chance, number))
        analyze(large)
    assert resume(large).resumed


def kill_after(lab: Lab, commits: int, workers: str) -> None:
    settings = {"SNAPSHOT_CHUNK_SIZE": str(CHUNK), "SNAPSHOT_PARALLEL_WORKERS": workers}
    code, said = Worker(lab, **settings, DBMAZZ_TEST_DIE_AT=f"range:{commits}").end()
    assert code == -signal.SIGKILL, said


# -- trouble in the middle


def at_append(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> None:
    """Do something once rows were loaded so many times."""
    append, appends = DuckDBStagedCopy.append, itertools.count(1)

    def counted(self: DuckDBStagedCopy, rows: pl.DataFrame, lsn: Lsn) -> None:
        append(self, rows, lsn)
        if next(appends) == number:
            do()

    monkeypatch.setattr(DuckDBStagedCopy, "append", counted)


def test_a_worker_whose_server_process_is_ended(large: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    of_workers = "FROM pg_stat_activity WHERE application_name = 'dbmazz snapshot' AND query LIKE 'COPY%'"
    with monkeypatch.context() as within:
        at_append(within, 3, lambda: large.execute(f"SELECT pg_terminate_backend(pid) {of_workers}"))
        with pytest.raises(ReplicationInterrupted, match="broke: terminating"):
            large.capture()
    assert 2 <= len(finished(large)) < 12
    large.transactions(*TRAFFIC[:3])
    assert resume(large).resumed


def test_a_value_that_cannot_be_copied(large: Lab) -> None:
    """The next run resumes once the value was changed."""
    large.execute(
        f"ALTER TABLE t ADD COLUMN price numeric(9, 2) DEFAULT 1; UPDATE t SET price = 'NaN' WHERE id = {ROWS}"
    )
    analyze(large)
    with pytest.raises(BadValue, match="NaN"):
        large.capture()
    assert len(finished(large)) >= 8
    large.execute("UPDATE t SET price = 2 WHERE price = 'NaN'")
    assert resume(large).resumed


def test_a_disk_that_runs_full(large: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    large.execute(f"UPDATE t SET big = {toast('long')} || id WHERE id > {ROWS // 2}")
    analyze(large)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (large.path.stat().st_size + 100_000, limits[1]))

    try:
        with monkeypatch.context() as within, pytest.raises(DiskFull):
            at_append(within, 4, run_full)
            large.capture()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    large.transactions(*TRAFFIC[:3])
    assert resume(large).resumed


@pytest.mark.parametrize(
    "altered",
    [
        "TRUNCATE t; INSERT INTO t SELECT i, 7, 'x', NULL FROM generate_series(1, 3000) i",
        variant("ALTER TABLE t ADD COLUMN later int DEFAULT 5"),
    ],
)
@pytest.mark.parametrize(("owner", "method"), [variant(TableSnapshot, "resumable"), (DuckDBStagedCopy, "begin")])
def test_a_table_that_is_altered_after_the_snapshot(
    large: Lab, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, altered: str
) -> None:
    """The snapshot shows the new storage, or other columns, as if the rows had never been there."""
    with monkeypatch.context() as within:
        before(within, owner, method, lambda: large.transactions(*altered.split(";")))
        die_after(within, 3)
        with suppress(Killed):
            large.capture()
    analyze(large)
    copied = resume(large)
    assert not (copied.resumed and owner is DuckDBStagedCopy)


def test_transactions_that_were_open_when_the_first_snapshot_was_taken(
    large: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With subtransactions, which no snapshot lists.

    The creation of a slot waits for the transactions that it finds, then for those that began meanwhile, and no longer.
    """
    monkeypatch.setattr("dbmazz_core.connectors.sources.postgres.snapshot.exported.REPORT_WAIT_AFTER_S", 0.2)
    with large.database.connect() as first, large.database.connect() as second, large.database.connect() as open_one:
        first.execute("BEGIN; INSERT INTO t VALUES (-1)")
        waits = itertools.count()

        def go_on(report: Progress) -> None:
            if report.phase == "wait":
                match next(waits):
                    case 0:
                        second.execute("BEGIN; INSERT INTO t VALUES (-2)")
                        first.execute("COMMIT")
                    case 1:
                        open_one.execute("BEGIN; INSERT INTO t VALUES (-3)")
                        for n in range(3):
                            open_one.execute(
                                f"SAVEPOINT s{n}; UPDATE t SET n = {n} + 10 WHERE id % 60 = {n};"
                                f"DELETE FROM t WHERE id % 61 = {n}; RELEASE s{n}"
                            )
                        second.execute("COMMIT")

        with monkeypatch.context() as within, pytest.raises(Killed):
            die_after(within, 5)
            large.capture(progress=go_on)
        assert next(waits) >= 2
        ((xmin,),) = large.rows("SELECT (mark->>'xmin')::BIGINT FROM _dbmazz.copies")
        ((xid,),) = open_one.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
        assert xmin <= xid
        open_one.execute("COMMIT")
    copied = resume(large)
    assert copied.resumed
