"""The columnar decoder and the plain one on what a real server sends from one position."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources import create_source
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.records import Delete, Insert, SchemaChange, Truncate, Update
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import NewSchema, Truncation
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab, toast
from tests.support.postgres_fixtures import SourceDatabase

Story = dict[TableRef, list[str]]


def of_records(lab: Lab) -> Story:
    story: Story = defaultdict(list)
    with create_source(lab.config) as source:
        source.start()
        for record in source.records(until=source.reachable_lsn()):
            match record:
                case Insert(table) | Update(table) | Delete(table):
                    story[table].append(repr(record))
                case Truncate(tables, _, _, position):
                    for table in tables:
                        story[table].append(repr(Truncation(table, position)))
                case SchemaChange(table, _, new, position):
                    story[table].append(repr(NewSchema(new, position.commit_lsn, position.xid)))
    return story


def of_batches(lab: Lab, rows: int) -> Story:
    story: Story = defaultdict(list)
    described: dict[TableRef, TableSchema] = {}
    with create_source(lab.config) as source:
        source.start()
        for event in source.batches(rows=rows, until=source.reachable_lsn()):
            match event:
                case ChangeBatch():
                    story[event.table] += map(repr, event.records())
                case NewSchema(schema, commit_lsn, xid) if schema != described.get(schema.table):
                    # Records do not tell the relation's oid, nor that it was described again as it is.
                    story[event.table].append(repr(NewSchema(schema, commit_lsn, xid)))
                    described[schema.table] = schema
                case Truncation():
                    story[event.table].append(repr(event))
    return story


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_records_and_batches_of_one_slot_are_the_same(database: SourceDatabase, tmp_path: Path, identity: str) -> None:
    lab = Lab(database, tmp_path / "unused.duckdb")
    lab.execute(
        "CREATE TYPE mood AS ENUM ('gut'); CREATE TABLE a (id int PRIMARY KEY, m mood, n numeric(9,2), f real, d date,"
        " ts timestamptz, b bytea, j jsonb, o boolean, big text, u uuid, x float8);"
        "CREATE TABLE b (k text, l smallint, v varchar(20), PRIMARY KEY (k, l)); CREATE TABLE bag (x int, y text);"
        f"ALTER TABLE a REPLICA IDENTITY {identity}; ALTER TABLE b REPLICA IDENTITY {identity}"
    )
    with create_source(lab.config) as source:
        source.start()
    lab.transactions(
        "INSERT INTO a SELECT i, 'gut', i / 7.0, i / 3.0, '2000-01-01'::date + i, to_timestamp(i * 1e6), int8send(i),"
        f" '{{}}', i % 2 = 0, v || i, gen_random_uuid(), 1.0 / i FROM generate_series(1, 400) i, {toast('a')} v(v)",
        "INSERT INTO b SELECT md5(i::text), i, 'ä€😀' FROM generate_series(1, 300) i;"
        "UPDATE a SET n = NULL WHERE id < 50",
        "UPDATE a SET id = -id WHERE id < 20; UPDATE b SET l = l + 1000 WHERE l % 7 = 0; DELETE FROM b WHERE l % 5 = 0",
        *(
            f"UPDATE a SET f = 'NaN', d = 'infinity', x = 1e300 WHERE id = {i}; INSERT INTO bag VALUES ({i}, NULL)"
            for i in range(30, 90)
        ),
        "TRUNCATE b; INSERT INTO b VALUES ('', 0, ''), (' ', -1, NULL); UPDATE bag SET y = '' WHERE x % 2 = 0",
        "ALTER TABLE a ADD COLUMN late text DEFAULT 'x'; UPDATE a SET big = NULL WHERE id < 0;"
        "ALTER TABLE a DROP COLUMN m; DELETE FROM a WHERE id % 3 = 0",
        "DELETE FROM bag; DELETE FROM a",
    )  # fmt: skip
    told = of_records(lab)
    assert {str(table): len(lines) for table, lines in told.items()}.keys() == {"public.a", "public.b", "public.bag"}
    assert sum(map(len, told.values())) > 1500
    for rows in (1, 100, 1_000_000):
        assert of_batches(lab, rows) == told
