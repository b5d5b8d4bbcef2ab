"""The core of what dbmazz promises, on every major version of PostgreSQL: each scenario once a version."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from dbmazz_core.connectors.sources import create_source
from dbmazz_core.engine.result import StopReason
from dbmazz_core.errors import SlotAheadOfCheckpoint, SlotNotFound
from dbmazz_core.model.records import Insert, Message, Truncate, Update
from dbmazz_core.settings.config import FlushConfig, WindowLimits
from tests.support.lab import Lab, toast
from tests.support.worker_process import Worker

pytestmark = pytest.mark.matrix

#: A table of each identity; all but `parts` and `only_key` with values out of line.
IDENTITIES = {
    "by_key": "(id int PRIMARY KEY, n int, big text)",
    "by_two": "(big text, b text, n int, id int, PRIMARY KEY (id, b))",
    "by_index": "(other serial PRIMARY KEY, id int NOT NULL UNIQUE, n int, big text)",
    "in_full": "(id int PRIMARY KEY, n int, big text)",
    "bag": "(id int, n int, big text)",
    "parts": "(id int PRIMARY KEY, n int, big text) PARTITION BY RANGE (id)",
    "only_key": "(id int PRIMARY KEY)",
}
TABLES = tuple(IDENTITIES)
WITH_VALUES = TABLES[:-1]


def setup() -> str:
    statements = [f"CREATE TABLE {name} {columns}" for name, columns in IDENTITIES.items()]
    statements += [
        "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (MINVALUE) TO (4)",
        "CREATE TABLE parts_high PARTITION OF parts DEFAULT",
        "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id_key",
        "ALTER TABLE in_full REPLICA IDENTITY FULL",
        "INSERT INTO by_two SELECT CASE WHEN i % 2 = 0 THEN v END, 'b' || i % 2, i, i"
        f" FROM generate_series(1, 6) i, {toast('two')} v(v)",
        "INSERT INTO only_key SELECT generate_series(1, 6)",
    ]
    for name in ("by_key", "by_index", "in_full", "bag", "parts"):
        statements.append(
            f"INSERT INTO {name} (id, n, big) SELECT i, i, CASE WHEN i % 2 = 0 THEN v END"
            f" FROM generate_series(1, 6) i, {toast(name)} v(v)"
        )
    return ";".join(statements)


def test_every_kind_of_change_under_every_identity(matrix_lab: Lab) -> None:
    lab = matrix_lab
    lab.execute(setup())
    first = lab.capture_and_compare(*TABLES)
    assert first.tables[lab.ref("parts")].snapshot_rows == 6
    assert lab.pipeline.check().ok
    lab.transactions(
        *(f"UPDATE {name} SET n = n + 10 WHERE id < 5" for name in WITH_VALUES),  # big is not sent
        *(f"UPDATE {name} SET id = id + 1 WHERE id = 6; UPDATE {name} SET id = 12 WHERE id = 2" for name in TABLES),
        *(
            f"UPDATE {name} SET big = {toast('new')} WHERE id = 1; DELETE FROM {name} WHERE id = 3"
            for name in TABLES[:-1]
        ),
        "BEGIN; INSERT INTO by_key VALUES (3, 0, 'again');"
        "SAVEPOINT s; DELETE FROM by_key; TRUNCATE bag; ROLLBACK TO s;"
        "UPDATE by_key SET id = 3 WHERE id = -3; DELETE FROM only_key WHERE id = 1; COMMIT",
        "BEGIN; INSERT INTO in_full VALUES (100, 0, 'never'); ROLLBACK",
        "UPDATE parts SET id = 2 WHERE id = 12; UPDATE parts SET id = 40 WHERE id = 1",  # to other partitions
        "INSERT INTO bag SELECT 5, 5, 'same' FROM generate_series(1, 3);"
        "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE big = 'same')",
    )
    result = lab.capture_and_compare(*TABLES)
    assert result.stop_reason is StopReason.CAUGHT_UP
    lab.transactions(
        "TRUNCATE by_two, bag; INSERT INTO bag VALUES (1, 1, 'after'), (1, 1, 'after')",
        "INSERT INTO by_two VALUES ('x', 'y', 1, 1)",
        "TRUNCATE parts; INSERT INTO parts VALUES (1, 1, 'low'), (9, 9, '')",
        f"INSERT INTO by_key SELECT i, i, v FROM generate_series(1000, 1400) i, {toast('many')} v(v)",
        "UPDATE by_key SET n = 0",
    )
    result = lab.configured(flush=FlushConfig(size=1, max_bytes=1 << 16)).capture_and_compare(*TABLES)
    assert result.flushes >= 4
    assert lab.confirmed == lab.checkpoint


def test_other_transactions_and_messages_move_the_position_and_nothing_else(matrix_lab: Lab) -> None:
    """PostgreSQL 14 sends BEGIN and COMMIT of transactions that touch no published table, later ones do not."""
    lab = matrix_lab
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.u (id int)")
    lab.capture()
    for _ in range(2):
        lab.transactions(
            *["INSERT INTO other.u VALUES (1)"] * 20,
            "SELECT pg_logical_emit_message(true, 'p', 'inside')",
            "SELECT pg_logical_emit_message(false, 'p', 'outside')",
            "BEGIN; INSERT INTO t VALUES (1); ROLLBACK",
        )
        ((server,),) = lab.database.fetch("SELECT pg_current_wal_flush_lsn()::text")
        before = lab.checkpoint
        result = lab.capture()
        assert (result.changes, result.stop_reason) == (0, StopReason.CAUGHT_UP)
        assert result.duration_s < 5
        assert str(before) != str(lab.checkpoint) >= server
        assert lab.confirmed == lab.checkpoint
        assert not lab.pipeline.has_changes()
    lab.execute("INSERT INTO t VALUES (2)")
    assert lab.pipeline.has_changes()
    assert lab.capture_and_compare("t").changes == 1


def test_records_are_told_alike(matrix_lab: Lab) -> None:
    lab = matrix_lab
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with create_source(lab.config) as source:
        source.start()
        lab.transactions(
            "INSERT INTO t VALUES (1, 'a'); SELECT pg_logical_emit_message(true, 'p', 'x');"
            "UPDATE t SET id = 2; TRUNCATE t"
        )
        seen = list(source.records(until=source.reachable_lsn()))
    (insert,) = [record for record in seen if isinstance(record, Insert)]
    (update,) = [record for record in seen if isinstance(record, Update)]
    (message,) = [record for record in seen if isinstance(record, Message)]
    assert insert.columns == {"id": 1, "v": "a"}
    assert (update.old_columns, update.new_columns) == ({"id": 1}, {"id": 2, "v": "a"})
    assert (message.prefix, message.content) == ("p", b"x")
    assert sum(isinstance(record, Truncate) for record in seen) == 1


def test_killed_after_a_commit_it_goes_on_where_it_was(matrix_lab: Lab) -> None:
    lab = matrix_lab
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE bag (x int)")
    lab.capture()
    lab.transactions(*(f"INSERT INTO t VALUES ({i}, 'v'); INSERT INTO bag VALUES (1)" for i in range(6)))
    code, said = Worker(lab, FLUSH_SIZE="2", DBMAZZ_TEST_DIE_AT="stream:2").end()
    assert code == -signal.SIGKILL, said
    assert lab.confirmed <= lab.checkpoint
    assert lab.capture_and_compare("t", "bag").changes == 8


def test_a_slot_that_does_not_fit_is_an_error_and_a_new_snapshot_the_way_out(matrix_lab: Lab) -> None:
    lab = matrix_lab
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (2)")
    lab.database.fetch("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", lab.slot)
    with lab.nothing_changes("public.t"), pytest.raises(SlotAheadOfCheckpoint):
        lab.capture()
    lab.database.execute("SELECT pg_drop_replication_slot(%s)", lab.slot)
    with pytest.raises(SlotNotFound):
        lab.capture()
    lab.pipeline.snapshot()
    lab.execute("INSERT INTO t VALUES (3)")
    assert lab.capture_and_compare("t").changes == 1


def test_a_table_becomes_a_partition_between_the_checkpoint_and_the_copy(matrix_lab: Lab) -> None:
    """PostgreSQL 14 decodes its row while it is not published, and leaves out later ones in that session."""
    lab = matrix_lab
    lab.execute(
        "CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF r FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE x (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY)"
    )
    lab = replace(lab, tables="r, other")
    lab.capture_and_compare("r", "other")
    lab.transactions(
        "INSERT INTO x VALUES (11, 'alone'); INSERT INTO other VALUES (1)",
        "ALTER TABLE r ATTACH PARTITION x FOR VALUES FROM (10) TO (20)",
        "INSERT INTO r VALUES (12, 'copied'), (1, 'copied')",
    )
    lab.pipeline.snapshot([lab.ref("r")])
    lab.transactions("INSERT INTO r VALUES (13, 'late')", "UPDATE r SET v = 'changed' WHERE id IN (1, 11)")
    limited = lab.capture(limits=WindowLimits(max_changes=2))
    assert (limited.stop_reason, limited.changes) == (StopReason.MAX_CHANGES, 2)
    rest = lab.capture_and_compare("r", "other")
    assert (rest.stop_reason, rest.changes, rest.copy_anew) == (StopReason.CAUGHT_UP, 2, {})
    assert rest.upper_lsn <= rest.end_lsn == lab.checkpoint == lab.confirmed
