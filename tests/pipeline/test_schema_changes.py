"""Tables that change their shape while they are captured: the destination follows, in order with the rows around."""

from __future__ import annotations

import re
from collections.abc import Iterable
from threading import Event
from typing import Any

import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.alter import ALTERS_MODIFIED_TABLES
from dbmazz_core.engine.result import StopReason
from dbmazz_core.errors import SchemaChanged
from dbmazz_core.model.records import Insert, SchemaChange
from dbmazz_core.settings.by_table import parse_schema_policy
from dbmazz_core.settings.config import FlushConfig, SnapshotConfig, TableConfig, WindowLimits
from tests.support.lab import BOTH, Lab, instead_of_t, toast

START = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
    "INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 50) i"
)
#: Metadata only: the destination is altered, nothing is copied.
IN_PLACE = {
    "add": "ALTER TABLE t ADD COLUMN c text",
    "add with default": "ALTER TABLE t ADD COLUMN c timestamptz DEFAULT '2026-01-02 03:04:05.678+02'",
    "add with default and not null": "ALTER TABLE t ADD COLUMN c numeric(10,2) NOT NULL DEFAULT 1.50",
    "add with bytes": "ALTER TABLE t ADD COLUMN c bytea DEFAULT '\\xdeadbeef'",
    "add with json": """ALTER TABLE t ADD COLUMN c jsonb DEFAULT '{"a": [1, "x\\"y"]}'""",
    "add with text to quote": """ALTER TABLE t ADD COLUMN c text DEFAULT 'it''s "quoted", {braced}, \\ and NULL'""",
    "add three": "ALTER TABLE t ADD COLUMN c int, ADD COLUMN d int DEFAULT 7, ADD COLUMN e date",
    "drop": "ALTER TABLE t DROP COLUMN n",
    "drop the last": "ALTER TABLE t DROP COLUMN v",
    "rename": "ALTER TABLE t RENAME COLUMN n TO number",
    "rename the last": "ALTER TABLE t RENAME COLUMN v TO note",
    "rename the key": "ALTER TABLE t RENAME COLUMN id TO identifier",
    "not null": "ALTER TABLE t ALTER COLUMN n SET NOT NULL",
    "varchar": "ALTER TABLE t ALTER COLUMN v TYPE varchar",
    "default": "ALTER TABLE t ALTER COLUMN n SET DEFAULT 5",
    "exchange names": "ALTER TABLE t RENAME n TO x; ALTER TABLE t RENAME v TO n; ALTER TABLE t RENAME x TO v",
    "drop and add ahead of another": "ALTER TABLE t DROP COLUMN n; ALTER TABLE t ADD COLUMN n int DEFAULT 3",
}
#: Values are rewritten, or the catalog cannot tell any more which column was which: the table is copied anew.
COPIED = {
    "widen": "ALTER TABLE t ALTER COLUMN n TYPE bigint",
    "to text": "ALTER TABLE t ALTER COLUMN n TYPE text",
    "using": "ALTER TABLE t ALTER COLUMN n TYPE int USING n * 2",
    "volatile default": "ALTER TABLE t ADD COLUMN c double precision DEFAULT random()",
    "serial": "ALTER TABLE t ADD COLUMN c serial",
    "drop and add the last": "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v text",
    "created again": "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, n int, v text)",
}


def copied_anew(result: Any) -> bool:
    return bool(result.copy_anew)


def side_by_side(changes: Iterable[str]) -> dict[str, str]:
    """By table, each with a name of its own: all changes happen in one window."""
    return {"t_" + re.sub(r"\W", "_", name): {**IN_PLACE, **COPIED}[name] for name in changes}


def begin(lab: Lab, tables: Iterable[str], identity: str) -> None:
    start = START.format(identity=identity)
    lab.execute(
        "; ".join([*(instead_of_t(table, start) for table in tables), "CREATE TABLE other (id int PRIMARY KEY)"])
    )
    lab.capture_and_compare(*tables)


@BOTH
def test_a_change_of_metadata_is_followed_in_place(lab: Lab, identity: str) -> None:
    changes = side_by_side(IN_PLACE)
    begin(lab, changes, identity)
    keys = {table: "identifier" if "identifier" in change else "id" for table, change in changes.items()}
    for table, change in changes.items():
        key = keys[table]
        lab.transactions(
            *(
                instead_of_t(table, statement)
                for statement in (
                    "INSERT INTO t (id) VALUES (101); UPDATE t SET n = 0 WHERE id < 10; DELETE FROM t WHERE id = 20",
                    "UPDATE t SET n = 1 WHERE n IS NULL; UPDATE t SET id = 200 WHERE id = 30",
                    change,
                    f"UPDATE t SET {key} = 300 WHERE {key} = 31; DELETE FROM t WHERE {key} = 21;"
                    f"UPDATE t SET {key} = {key}",
                )
            )
        )
    assert not lab.capture_and_compare(*changes).copy_anew
    for table, key in keys.items():
        lab.transactions(f"DELETE FROM {table} WHERE {key} < 5", f"UPDATE {table} SET {key} = -{key} WHERE {key} < 9")
    assert not lab.capture_and_compare(*changes).copy_anew


def test_a_change_that_no_row_comes_after(lab: Lab) -> None:
    """The stream says nothing of it before the table's next row."""
    changes = side_by_side([*IN_PLACE, *COPIED])
    begin(lab, changes, "DEFAULT")
    for table, change in changes.items():
        lab.transactions(f"UPDATE {table} SET n = 1 WHERE id < 10", instead_of_t(table, change))
    lab.transactions("INSERT INTO other VALUES (1)")
    lab.capture_and_compare(*changes, "other")
    lab.transactions("INSERT INTO other VALUES (2)")
    assert not lab.capture_and_compare(*changes, "other").copy_anew


@BOTH
def test_a_change_that_rewrites_is_followed_by_copying_anew(lab: Lab, identity: str) -> None:
    changes = side_by_side(COPIED)
    begin(lab, changes, identity)
    for number, (table, change) in enumerate(changes.items()):
        lab.transactions(
            f"UPDATE {table} SET n = 1 WHERE id < 10; INSERT INTO other VALUES ({number}), ({number} + 100)",
            instead_of_t(table, change),
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}; INSERT INTO {table} (id) VALUES (400);"
            f"INSERT INTO other VALUES ({number} + 200)",
            f"UPDATE {table} SET id = 401 WHERE id = 400; DELETE FROM other WHERE id = {number}",
        )
    assert set(lab.capture_and_compare(*changes, "other").copy_anew) == {lab.ref(table) for table in changes}
    for table in changes:
        lab.transactions(
            f"UPDATE {table} SET id = 402 WHERE id = 401", "INSERT INTO other SELECT max(id) + 1 FROM other"
        )
    assert not lab.capture_and_compare(*changes, "other").copy_anew


@BOTH
def test_several_changes_in_one_transaction_with_rows_between(lab: Lab, identity: str) -> None:
    lab.execute(START.format(identity=identity))
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t VALUES (60, 1, 'a');"
        "ALTER TABLE t ADD COLUMN c int DEFAULT 5; INSERT INTO t VALUES (61, 1, 'b', 6);"
        "UPDATE t SET c = 7 WHERE id = 3;"
        "ALTER TABLE t RENAME COLUMN n TO m; UPDATE t SET m = m + 1 WHERE id < 5;"
        "ALTER TABLE t ADD COLUMN d text; INSERT INTO t VALUES (62, 1, 'c', 7, 'd'); DELETE FROM t WHERE id = 61;"
        "ALTER TABLE t DROP COLUMN v; UPDATE t SET id = 70 WHERE id = 62; INSERT INTO t VALUES (63, 2, 3, 'e')"
    )
    result = lab.capture_and_compare("t")
    assert copied_anew(result) is not ALTERS_MODIFIED_TABLES
    lab.transactions("UPDATE t SET d = 'x' WHERE id > 40")
    lab.capture_and_compare("t")


def test_unchanged_values_out_of_line_across_a_change(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text);"
        f"INSERT INTO t VALUES (1, 1, {toast('a')}), (2, 2, {toast('b')})"
    )
    lab.capture_and_compare("t")
    lab.transactions(
        "UPDATE t SET n = 5",
        "ALTER TABLE t RENAME COLUMN big TO large",
        "UPDATE t SET n = 6; UPDATE t SET id = 3 WHERE id = 2",
        "ALTER TABLE t ADD COLUMN c int DEFAULT 1",
        "UPDATE t SET c = 2 WHERE id = 1; UPDATE t SET id = 4 WHERE id = 3",
    )
    assert not copied_anew(lab.capture_and_compare("t"))


def test_types_that_are_relabelled_without_rewriting(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a numeric(10,2), b numeric(10,2), c timestamp, d varchar(5));"
        "INSERT INTO t VALUES (1, 1.50, -2.25, '2026-01-02 03:04:05.6', 'x'), (2, 0, 0, '0044-03-15 BC', NULL)"
    )
    lab.capture_and_compare("t")
    lab.transactions(
        "UPDATE t SET a = 7.10 WHERE id = 2",
        "SET timezone = 'UTC'; ALTER TABLE t ALTER a TYPE numeric(20,2), ALTER b TYPE numeric, ALTER d TYPE text",
        "INSERT INTO t VALUES (3, 123456789012345678.90, 1.2345, now(), 'longer than five')",
    )
    assert not copied_anew(lab.capture_and_compare("t"))


@pytest.mark.parametrize(
    "harmless", ["VACUUM FULL t", "CLUSTER t USING t_pkey", "ANALYZE t", "CREATE INDEX ON t (n)", "REINDEX TABLE t"]
)
def test_what_only_moves_rows_is_no_change(lab: Lab, harmless: str) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture_and_compare("t")
    lab.transactions("INSERT INTO t VALUES (60, 1, 'a')", harmless, "INSERT INTO t VALUES (61, 1, 'a')")
    assert not copied_anew(lab.capture_and_compare("t"))
    lab.transactions("TRUNCATE t", "INSERT INTO t VALUES (62, 1, 'a')")
    assert not copied_anew(lab.capture_and_compare("t"))


def test_a_window_that_ends_before_the_change(lab: Lab) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t VALUES (60, 1, 'a')",
        "INSERT INTO t VALUES (61, 1, 'a')",
        "ALTER TABLE t ADD COLUMN c int DEFAULT 3",
        "ALTER TABLE t DROP COLUMN n; UPDATE t SET c = 4 WHERE id = 1",
        "ALTER TABLE t RENAME v TO w; UPDATE t SET c = 5 WHERE id = 2",
    )
    reasons = []
    for _ in range(9):
        result = lab.capture(limits=WindowLimits(max_changes=1))
        assert not copied_anew(result)
        reasons.append(result.stop_reason)
        if reasons[-1] is StopReason.CAUGHT_UP:
            break
    assert reasons[-1] is StopReason.CAUGHT_UP
    lab.assert_equal("t")


def test_a_change_in_a_transaction_too_large_for_memory(lab: Lab) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t SELECT i, i, repeat('x', 500) FROM generate_series(1000, 8000) i;"
        "ALTER TABLE t ADD COLUMN c int DEFAULT 1;"
        "INSERT INTO t SELECT i, i, repeat('y', 500), 2 FROM generate_series(10000, 17000) i;"
        "DELETE FROM t WHERE id % 7 = 0"
    )
    lab.configured(flush=FlushConfig(max_bytes=1 << 20)).capture_and_compare("t")


@pytest.mark.parametrize(
    "rule", ["stop", "apply, add_column=stop", "apply, public.t:add_column=stop", "apply, public.*=stop"]
)
def test_stopping_says_what_to_do_and_changes_nothing(lab: Lab, rule: str) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture_and_compare("t")
    lab = following(lab, rule)
    lab.transactions(
        "INSERT INTO t VALUES (60, 1, 'a')", "ALTER TABLE t ADD COLUMN c int; INSERT INTO t VALUES (61, 1, 'a', 1)"
    )
    for _ in range(2):
        with (
            lab.nothing_changes("public.t"),
            pytest.raises(SchemaChanged, match='column "c" integer was added') as info,
        ):
            lab.capture()
    assert "dbmazz snapshot --tables 'public.t'" in info.value.remedy
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")


def test_an_added_column_that_is_ignored(lab: Lab) -> None:
    lab.execute(START.format(identity="DEFAULT") + "; CREATE TABLE other (id int PRIMARY KEY)")
    lab.capture()
    lab = following(lab, "apply, add_column=ignore")
    for number in range(2):
        lab.transactions(
            f"ALTER TABLE t ADD COLUMN c{number} int DEFAULT 1; UPDATE t SET c{number} = 2, n = n + 1 WHERE id < 9"
        )
        lab.transactions("DELETE FROM t WHERE id = 20; UPDATE t SET id = id + 1000 WHERE id > 40")
        assert not copied_anew(lab.capture())
        lab.execute("CREATE OR REPLACE VIEW of_t AS SELECT id, n, v FROM t")
        assert sorted(lab.rows("FROM public.t")) == sorted(lab.database.fetch("SELECT id, n, v FROM t"))


@BOTH
def test_a_dropped_column_that_is_ignored_keeps_what_it_had(lab: Lab, identity: str) -> None:
    lab.execute(START.format(identity=identity))
    lab.capture()
    lab = following(lab, "apply, drop_column=ignore")
    lab.transactions(
        "ALTER TABLE t DROP COLUMN n", "UPDATE t SET v = 'changed' WHERE id = 1; INSERT INTO t VALUES (60, 'new')"
    )
    lab.transactions("UPDATE t SET id = 61 WHERE id = 2; DELETE FROM t WHERE id = 3")
    assert not copied_anew(lab.capture())
    rows = {row[0]: row[1:] for row in lab.rows("SELECT id, n, v FROM public.t")}
    assert (rows[1], rows[60], rows[61]) == ((10, "changed"), (None, "new"), (20, "row 2"))
    assert len(rows) == 50
    lab.transactions("UPDATE t SET v = 'again' WHERE id = 1")
    lab.capture()
    assert lab.rows("SELECT n, v FROM public.t WHERE id = 1") == [(10, "again")]


def test_a_renamed_column_that_is_ignored_keeps_its_name(lab: Lab) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture()
    lab = following(lab, "apply, rename_column=ignore")
    lab.transactions(
        "ALTER TABLE t RENAME n TO m; UPDATE t SET m = m + 1 WHERE id < 9", "ALTER TABLE t RENAME id TO key"
    )
    lab.transactions(
        "UPDATE t SET key = 90 WHERE key = 9; DELETE FROM t WHERE key = 10", "ALTER TABLE t ADD COLUMN c int"
    )
    lab.transactions("INSERT INTO t VALUES (100, 1, 'x', 5)")
    assert not copied_anew(lab.capture())
    assert sorted(lab.rows("SELECT id, n, v, c FROM public.t")) == sorted(lab.database.fetch("SELECT * FROM t"))


def test_every_change_is_recorded_and_told(lab: Lab) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture()
    lab.transactions("ALTER TABLE t ADD COLUMN c int DEFAULT 3; INSERT INTO t VALUES (60, 1, 'a', 1)")
    result = lab.capture()
    assert result.schema_changes == ["""public.t: column "c" integer was added with 3 in older rows (apply)"""]
    assert result.to_dict()["schema_changes"] == result.schema_changes
    lab.transactions("ALTER TABLE t ALTER COLUMN n TYPE bigint; INSERT INTO t VALUES (61, 1, 'a', 1)")
    result = lab.capture()
    assert result.copy_anew == {lab.ref("t"): 'was rewritten when column "n" changed'}
    history = lab.rows(
        "SELECT kind, action, detail, xid > 0, commit_lsn > 0 FROM _dbmazz.schema_history ORDER BY recorded_at"
    )
    assert history == [
        ("add_column", "apply", 'column "c" integer was added with 3 in older rows', True, True),
        ("copy_anew", "apply", 'public.t was rewritten when column "n" changed', True, True),
    ]


def test_records_tell_of_a_change(lab: Lab) -> None:
    lab.execute(START.format(identity="DEFAULT"))
    lab.capture()
    lab.transactions(
        "ALTER TABLE t ADD COLUMN c int DEFAULT 3; INSERT INTO t VALUES (60, 1, 'a', 1)",
        "ALTER TABLE t RENAME TO u",
        "INSERT INTO u VALUES (61, 1, 'a', 1)",
    )
    seen = [r for r in lab.pipeline.peek(10) if isinstance(r, SchemaChange | Insert)]
    assert [type(r) for r in seen] == [SchemaChange, Insert, SchemaChange, Insert]
    assert isinstance(seen[2], SchemaChange)
    assert seen[2].old is not None
    assert (seen[2].old.table.name, seen[2].new.table.name) == ("t", "u")


def test_a_table_that_is_altered_while_it_is_copied(lab: Lab) -> None:
    """ALTER TABLE and TRUNCATE are not MVCC-safe: a snapshot from before sees other columns, or an empty table."""
    lab.execute(START.format(identity="DEFAULT") + "; CREATE TABLE a (id int PRIMARY KEY)")
    lab.execute("INSERT INTO a SELECT generate_series(1, 1000)")
    changes = iter(
        [
            "ALTER TABLE t ALTER COLUMN n TYPE bigint",
            "ALTER TABLE t ADD COLUMN c int DEFAULT 4",
            "TRUNCATE t; INSERT INTO t (id) VALUES (1)",
        ]
    )

    def meanwhile(progress: Any) -> None:
        if progress.phase == "snapshot" and progress.table == lab.ref("a") and progress.rows == 0:
            for change in changes:
                lab.execute(change)
                break

    lab.capture(progress=meanwhile)
    lab.assert_equal("t", "a")
    assert next(changes, None) is not None


def following(lab: Lab, rule: str) -> Lab:
    return lab.configured(tables=TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", rule)))


@BOTH
def test_a_new_column_takes_the_name_of_a_renamed_one(lab: Lab, identity: str) -> None:
    lab.execute(START.format(identity=identity))
    lab.capture_and_compare("t")
    lab.transactions("ALTER TABLE t RENAME n TO m; ALTER TABLE t ADD COLUMN n text DEFAULT 'new'")
    assert not copied_anew(lab.capture_and_compare("t"))
    lab.transactions("UPDATE t SET n = 'x', m = 1 WHERE id < 5", "DELETE FROM t WHERE id = 6")
    assert not copied_anew(lab.capture_and_compare("t"))


def test_copied_anew_with_its_rows_even_where_tables_begin_empty(lab: Lab) -> None:
    lab = lab.configured(snapshot=SnapshotConfig(enabled=False))
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    lab.capture_and_compare("t")
    lab.transactions("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.capture_and_compare("t")
    lab.transactions("ALTER TABLE t ALTER n TYPE bigint", "INSERT INTO t VALUES (3, 3)")
    assert copied_anew(lab.capture_and_compare("t"))
    lab.transactions("ALTER TABLE t ALTER n TYPE text", "INSERT INTO t VALUES (4, 'four')")
    stop = Event()
    stop.set()
    lab.capture(stop=stop)
    lab.capture_and_compare("t")
