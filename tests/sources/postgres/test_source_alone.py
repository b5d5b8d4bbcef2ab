"""The source by itself, without any destination: records for `match`, batches as frames, and its own bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

import polars as pl
import pytest

from dbmazz_core.connectors.sources import PostgresSource, create_source
from dbmazz_core.errors import BadValue, SlotAheadOfCheckpoint, SlotNotFound, TableNotFound
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.records import (
    UNCHANGED,
    Begin,
    CdcRecord,
    Commit,
    Delete,
    Heartbeat,
    Insert,
    Message,
    SchemaChange,
    Truncate,
    Update,
)
from dbmazz_core.model.stream import NewSchema, Truncation
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab, toast

T = TableRef("public", "t")


@pytest.fixture
def table(lab: Lab) -> Lab:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text, big text)")
    return lab


@contextmanager
def started(config: SourceConfig) -> Iterator[PostgresSource]:
    with create_source(config) as source:
        source.start()
        yield source


def records(source: PostgresSource) -> list[CdcRecord]:
    """Everything up to now, but heartbeats."""
    return [r for r in source.records(until=source.reachable_lsn()) if not isinstance(r, Heartbeat)]


def changes(source: PostgresSource) -> list[CdcRecord]:
    return [r for r in records(source) if isinstance(r, Insert | Update | Delete | Truncate)]


# -- records


def test_every_kind_of_record(table: Lab) -> None:
    with started(table.config) as source:
        table.transactions(
            f"INSERT INTO t VALUES (1, 'a', {toast('big')}); UPDATE t SET v = NULL; UPDATE t SET id = 2",
            "DELETE FROM t",
            "TRUNCATE t RESTART IDENTITY CASCADE",
            "SELECT pg_logical_emit_message(true, 'app', 'inside')",
            "SELECT pg_logical_emit_message(false, 'app', 'outside', true)"
            if table.database.server.major >= 17
            else "SELECT pg_logical_emit_message(false, 'app', 'outside'); INSERT INTO t VALUES (9); DELETE FROM t",
            "ALTER TABLE t ADD COLUMN n numeric(5,2)",
            "INSERT INTO t VALUES (3, 'c', '', 1.50)",
        )
        seen = records(source)
    told: list[object] = []
    for record in seen:
        match record:
            case Begin(position):
                told.append(("begin", position.ordinal))
            case Commit(position, end_lsn):
                assert end_lsn > position.commit_lsn
                told.append("commit")
            case Insert(_, columns):
                told.append(("insert", columns["id"], columns["v"], columns.get("n")))
            case Update(_, old, new):
                told.append(("update", old, new["id"], new["v"], new["big"]))
            case Delete(_, columns):
                told.append(("delete", columns))
            case Truncate(tables, cascade, restart_identity):
                told.append(("truncate", tables, cascade, restart_identity))
            case SchemaChange(_, old_schema, new_schema):
                told.append(("schema", old_schema and old_schema.names, new_schema.names))
            case Message(prefix, content, transactional):
                told.append((prefix, content, transactional))
    begin, names = ("begin", 0), ("id", "v", "big")
    assert told[:8] == [
        begin,
        ("schema", None, names),
        ("insert", 1, "a", None),
        ("update", None, 1, None, UNCHANGED),
        ("update", {"id": 1}, 2, None, UNCHANGED),
        "commit",
        begin,
        ("delete", {"id": 2}),
    ]
    assert ("truncate", (T,), True, True) in told
    assert ("app", b"inside", True) in told
    assert ("app", b"outside", False) in told
    assert told[-4:] == [begin, ("schema", names, (*names, "n")), ("insert", 3, "c", Decimal("1.50")), "commit"]


def test_positions_order_the_changes(table: Lab) -> None:
    with started(table.config) as source:
        table.transactions("INSERT INTO t VALUES (1), (2)", "UPDATE t SET v = 'x'; DELETE FROM t WHERE id = 1")
        seen = changes(source)
    positions = [record.position for record in seen]
    assert positions == sorted(positions)
    assert [p.ordinal for p in positions] == [1, 2, 1, 2, 3]
    assert len({(p.commit_lsn, p.xid) for p in positions}) == 2
    assert all(p.commit_time is not None and p.commit_time.tzinfo is UTC for p in positions)


def test_replica_identity_full_gives_the_old_row(table: Lab) -> None:
    table.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    with started(table.config) as source:
        table.execute("INSERT INTO t VALUES (1, 'a', NULL); UPDATE t SET v = 'b'; DELETE FROM t")
        _, update, delete = changes(source)
    assert isinstance(update, Update)
    assert update.old_columns == {"id": 1, "v": "a", "big": None}
    assert isinstance(delete, Delete)
    assert delete.columns == {"id": 1, "v": "b", "big": None}


def test_values_are_pythons_own(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id uuid PRIMARY KEY, b boolean, i smallint, f real, n numeric(9,2), x bytea, d date, t time,"
        " ts timestamp, tz timestamptz, j jsonb, far date, late time)"
    )
    with started(lab.config) as source:
        lab.execute(
            "INSERT INTO t VALUES ('00000000-0000-0000-0000-000000000001', true, 5, 0.5, 1.5, '\\x00ff', '2024-02-29',"
            " '12:30:00.5', '2024-02-29 12:30', '2024-02-29 12:30+02', '{\"a\": 1}', 'infinity', '24:00')"
        )
        (insert,) = changes(source)
    assert isinstance(insert, Insert)
    assert list(insert.columns.values()) == [
        UUID(int=1), True, 5, 0.5, Decimal("1.50"), b"\x00\xff", date(2024, 2, 29), time(12, 30, 0, 500_000),
        datetime(2024, 2, 29, 12, 30), datetime(2024, 2, 29, 10, 30, tzinfo=UTC), '{"a": 1}', "infinity", "24:00:00",
    ]  # fmt: skip


def test_a_heartbeat_tells_that_the_server_is_further(table: Lab) -> None:
    with started(table.config) as source:
        before = source.server_lsn()
        table.execute("CREATE TABLE unrelated (id int); INSERT INTO unrelated SELECT generate_series(1, 100)")
        for record in source.records():
            if isinstance(record, Heartbeat) and record.wal_end > before:
                source.confirm_lsn(record.wal_end)
                break
            assert isinstance(record, Heartbeat | Begin | Commit)
    assert table.confirmed > before


def test_a_second_call_of_records_goes_on_where_the_first_ended(table: Lab) -> None:
    with started(table.config) as source:
        table.transactions(*(f"INSERT INTO t VALUES ({n})" for n in range(1, 6)))
        until = source.reachable_lsn()
        table.transactions(*(f"INSERT INTO t VALUES ({n})" for n in range(6, 9)))
        seen: list[object] = []
        for record in source.records():
            if isinstance(record, Insert):
                seen.append(record.columns["id"])
                if len(seen) == 2:
                    break
        seen += [r.columns["id"] for r in source.records(until=until) if isinstance(r, Insert)]
        assert seen == [1, 2, 3, 4, 5]
        seen += [r.columns["id"] for r in changes(source) if isinstance(r, Insert)]
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


# -- where it starts and what it remembers


def test_what_was_confirmed_does_not_come_again_and_the_rest_does(table: Lab) -> None:
    with started(table.config) as source:
        table.transactions("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)")
        commits = [r.end_lsn for r in records(source) if isinstance(r, Commit)]
        source.confirm_lsn(commits[1])
    assert table.confirmed == commits[1]
    with started(table.config) as source:
        assert [r.columns["id"] for r in changes(source) if isinstance(r, Insert)] == [3]


def test_an_exception_confirms_nothing_more(table: Lab) -> None:
    class Boom(Exception):
        pass

    with pytest.raises(Boom), started(table.config) as source:
        table.execute("INSERT INTO t VALUES (1)")
        assert len(changes(source)) == 1
        raise Boom
    with started(table.config) as source:
        assert len(changes(source)) == 1


def test_start_from_an_lsn_of_ones_own(table: Lab) -> None:
    with started(table.config) as source:
        table.transactions("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)")
        commits = [r for r in records(source) if isinstance(r, Commit)]
    for lsn, left in ((commits[0].end_lsn, [2, 3]), (commits[1].position.commit_lsn, [2, 3])):
        with create_source(table.config) as source:
            source.start_replication_from(lsn)
            assert [r.columns["id"] for r in changes(source) if isinstance(r, Insert)] == left
    with create_source(table.config) as source:
        source.start_replication_from(table.confirmed)
        source.confirm_lsn(commits[2].end_lsn)
    with create_source(table.config) as source, pytest.raises(SlotAheadOfCheckpoint):
        source.start_replication_from(commits[0].end_lsn)


def test_starting_needs_what_it_needs(table: Lab) -> None:
    with create_source(table.config) as source:
        source.validate()
        with pytest.raises(SlotNotFound):
            source.start_replication_from(Lsn(1))
        with pytest.raises(RuntimeError, match="not streaming"):
            source.confirm_lsn(Lsn(1))
    missing = replace(table, tables="public.nothing").config
    with create_source(missing) as source, pytest.raises(TableNotFound):
        source.validate()
    assert table.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s", table.slot) == []


def test_cleanup_on_stop_takes_slot_and_publication_away(table: Lab) -> None:
    config = replace(table.config, cleanup_on_stop=True)
    left = (
        "SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s UNION ALL SELECT pubname FROM pg_publication"
    )
    with started(config) as source:
        assert len(table.database.fetch(left, table.slot)) == 2
        table.execute("INSERT INTO t VALUES (1)")
        assert len(changes(source)) == 1
    assert table.database.fetch(left, table.slot) == []


def test_only_the_configured_tables_come(table: Lab) -> None:
    table.execute("CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION dbmazz_pub FOR ALL TABLES")
    with started(replace(table, tables="public.t").config) as source:
        table.transactions("INSERT INTO other VALUES (1); INSERT INTO t VALUES (1)", "TRUNCATE other, t")
        seen = [r for r in records(source) if not isinstance(r, Begin | Commit)]
    assert [type(r) for r in seen] == [SchemaChange, Insert, Truncate]
    assert seen[1].position.ordinal == 2  # type: ignore[union-attr]
    assert seen[2].tables == (T,)  # type: ignore[union-attr]


# -- batches


def test_batches_are_frames(table: Lab) -> None:
    with started(table.config) as source:
        table.transactions(
            f"INSERT INTO t SELECT i, 'v' || i, NULL FROM generate_series(1, 3) i; UPDATE t SET big = {toast('x')}",
            "UPDATE t SET id = 9, v = NULL WHERE id = 1; DELETE FROM t WHERE id = 2",
            "TRUNCATE t; INSERT INTO t VALUES (4)",
        )
        until = source.reachable_lsn()
        events = list(source.batches(until=until))
        assert source.end_lsn >= until
        source.confirm_lsn(source.end_lsn)
    assert table.confirmed >= until
    assert isinstance(events[0], NewSchema)
    assert [e.position.commit_lsn for e in events if isinstance(e, Truncation)]
    frame = pl.concat([e.frame() for e in events if isinstance(e, ChangeBatch)])
    assert frame["op"].to_list() == ["insert"] * 3 + ["update"] * 4 + ["delete", "insert"]
    assert frame["ordinal"].to_list() == [1, 2, 3, 4, 5, 6, 1, 2, 2]
    assert frame["xid"].n_unique() == frame["commit_lsn"].n_unique() == 3
    assert frame["unchanged"].to_list() == [[]] * 6 + [["big"], [], []]
    assert frame["new"].struct.field("id").to_list() == [1, 2, 3, 1, 2, 3, 9, None, 4]
    assert frame["old"].struct.field("id").to_list() == [None] * 6 + [1, 2, None]
    assert frame.schema["commit_time"] == pl.Datetime("us", "UTC")


def test_typed_batches(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), d date, ts timestamp(0), tz timestamptz, t time, s text)"
    )
    with started(lab.config) as source:
        lab.execute(
            "INSERT INTO t VALUES"
            " (1, 1.5, '2024-02-29', '2024-02-29 12:30', '2024-02-29 12:30:00.25+02', '12:30', 'x'),"
            " (2, NULL, NULL, NULL, NULL, NULL, NULL),"
            " (3, -99.99, '0001-01-01', '1969-12-31 23:59:59', 'epoch', '0:0', '')"
        )
        batches = [e for e in source.batches(until=source.reachable_lsn()) if isinstance(e, ChangeBatch)]
        lab.execute("INSERT INTO t VALUES (4, 1, 'infinity')")
        (beyond,) = [e for e in source.batches(until=source.reachable_lsn()) if isinstance(e, ChangeBatch)]
    typed = pl.concat([batch.typed() for batch in batches])
    assert typed.dtypes == [
        pl.Int32(), pl.Decimal(9, 2), pl.Date(), pl.Datetime("us"), pl.Datetime("us", "UTC"), pl.Time(), pl.String(),
    ]  # fmt: skip
    assert typed.row(0) == (
        1, Decimal("1.50"), date(2024, 2, 29), datetime(2024, 2, 29, 12, 30),
        datetime(2024, 2, 29, 10, 30, 0, 250_000, tzinfo=UTC), time(12, 30), "x",
    )  # fmt: skip
    assert typed.row(1) == (2, None, None, None, None, None, None)
    assert typed.row(2)[:3] == (3, Decimal("-99.99"), date(1, 1, 1))
    assert typed.row(2)[4] == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(BadValue, match="infinity"):
        beyond.typed()
    assert beyond.frame()["new"].struct.field("d").to_list() == ["infinity"]
