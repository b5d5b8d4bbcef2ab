"""The parser on what a real server's pgoutput says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from dbmazz_core.connectors.sources.postgres.parser.parser import (
    Begin,
    BinaryValue,
    CdcMessage,
    Commit,
    Delete,
    Insert,
    Message,
    OldKey,
    OldRow,
    Origin,
    Relation,
    RelationColumn,
    StreamAbort,
    Truncate,
    Type,
    Update,
    parse,
    pg_time,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.unchanged import UNCHANGED
from tests.support.postgres_fixtures import SourceDatabase

#: A value that no compression keeps below the TOAST threshold of 2 kB.
BIG = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) AS i)"

Decode = Callable[..., list[CdcMessage]]


@pytest.fixture
def decode(database: SourceDatabase) -> Decode:
    """Runs SQL and returns the messages that the server has for it, from a slot made before."""
    database.execute("CREATE PUBLICATION p FOR ALL TABLES")
    database.execute("SELECT pg_create_logical_replication_slot('parser_test', 'pgoutput')")

    def run(sql: str, binary: bool = False) -> list[CdcMessage]:
        database.execute(sql)
        # The smallest work_mem, set as the arguments are evaluated, so that decoding spills and discards.
        rows = database.fetch(
            "SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes('parser_test', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'p', 'messages', 'true', 'binary',"
            f" CASE WHEN set_config('logical_decoding_work_mem', '64kB', true) <> '' THEN '{binary}' END)"
        )
        return not_empty([parse(bytes(data), Lsn.parse(lsn)) for lsn, data in rows])

    return run


def not_empty(messages: list[CdcMessage]) -> list[CdcMessage]:
    """Without transactions that hold nothing: PostgreSQL 14 sends them too."""
    empty = {at for at, pair in enumerate(pairwise(messages)) if [*map(type, pair)] == [Begin, Commit]}
    return [message for at, message in enumerate(messages) if at not in empty and at - 1 not in empty]


def oid(database: SourceDatabase, name: str, kind: str = "regclass") -> int:
    ((value,),) = database.fetch(f"SELECT '{name}'::{kind}::oid::bigint")
    return int(value)


def test_a_transaction_of_rows(database: SourceDatabase, decode: Decode) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note varchar(20), big text)")
    messages = decode(
        f"BEGIN; INSERT INTO t VALUES (1, NULL, {BIG}); UPDATE t SET note = 'ä'; UPDATE t SET id = 2;"
        " DELETE FROM t; COMMIT"
    )
    t = oid(database, "t")
    match messages:
        case [Begin() as begin, Relation() as relation, Insert() as insert, *changes, Commit() as commit]:
            pass
        case _:
            pytest.fail(f"unexpected messages: {messages}")
    assert begin.xid > 0
    assert begin.final_lsn == commit.commit_lsn < commit.end_lsn
    assert begin.commit_time == commit.commit_time
    assert abs(datetime.now(UTC) - pg_time(commit.commit_time)) < timedelta(minutes=5)
    assert relation == Relation(
        t,
        "public",
        "t",
        "d",
        (
            RelationColumn(is_key=True, name="id", type_oid=23, type_modifier=-1),
            RelationColumn(is_key=False, name="note", type_oid=1043, type_modifier=24),
            RelationColumn(is_key=False, name="big", type_oid=25, type_modifier=-1),
        ),
    )
    assert insert.new[:2] == (b"1", None)
    assert isinstance(insert.new[2], bytes)
    assert len(insert.new[2]) == 200 * 32
    assert changes == [
        Update(t, None, (b"1", "ä".encode(), UNCHANGED)),
        Update(t, OldKey((b"1", None, None)), (b"2", "ä".encode(), UNCHANGED)),
        Delete(t, OldKey((b"2", None, None))),
    ]


def test_identity_full_carries_the_old_row_and_its_toast(database: SourceDatabase, decode: Decode) -> None:
    database.execute("CREATE TABLE t (a int, big text); ALTER TABLE t REPLICA IDENTITY FULL")
    messages = decode(f"BEGIN; INSERT INTO t VALUES (NULL, {BIG}); UPDATE t SET a = 1; DELETE FROM t; COMMIT")
    t = oid(database, "t")
    _, relation, insert, update, delete, _ = messages
    assert isinstance(relation, Relation)
    assert (relation.replica_identity, [c.is_key for c in relation.columns]) == ("f", [True, True])
    assert isinstance(insert, Insert)
    big = insert.new[1]
    assert update == Update(t, OldRow((None, big)), (b"1", UNCHANGED))
    assert delete == Delete(t, OldRow((b"1", big)))


def test_identity_index_and_nothing(database: SourceDatabase, decode: Decode) -> None:
    database.execute(
        "CREATE TABLE i (a int, b int NOT NULL UNIQUE); ALTER TABLE i REPLICA IDENTITY USING INDEX i_b_key;"
        "CREATE TABLE n (a int); ALTER TABLE n REPLICA IDENTITY NOTHING"
    )
    messages = decode("BEGIN; INSERT INTO i VALUES (1, 2); INSERT INTO n VALUES (3); COMMIT")
    relations = [message for message in messages if isinstance(message, Relation)]
    assert [(r.replica_identity, [c.is_key for c in r.columns]) for r in relations] == [
        ("i", [False, True]),
        ("n", [False]),
    ]


def test_truncate_of_two_tables(database: SourceDatabase, decode: Decode) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int REFERENCES a)")
    a, b = oid(database, "a"), oid(database, "b")
    messages = decode("TRUNCATE a CASCADE") + decode("TRUNCATE a, b RESTART IDENTITY")
    first, second = (message for message in messages if isinstance(message, Truncate))
    assert (set(first.relation_oids), first.cascade, first.restart_identity) == ({a, b}, True, False)
    assert (set(second.relation_oids), second.cascade, second.restart_identity) == ({a, b}, False, True)


def test_types_that_are_not_built_in(database: SourceDatabase, decode: Decode) -> None:
    database.execute(
        "CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('gut', 'schlecht'); CREATE DOMAIN age AS int;"
        "CREATE TABLE t (m s.mood, a age)"
    )
    messages = decode("INSERT INTO t VALUES ('gut', 7)")
    mood, age = oid(database, "s.mood", "regtype"), oid(database, "age", "regtype")
    _, enum, domain, relation, insert, _ = messages
    assert enum == Type(mood, "s", "mood")
    # Of a domain the server sends the base type's name, and an empty namespace for pg_catalog.
    assert domain == Type(age, "pg_catalog", "int4")
    assert isinstance(relation, Relation)
    assert [column.type_oid for column in relation.columns] == [mood, age]
    assert insert == Insert(oid(database, "t"), (b"gut", b"7"))


def test_logical_messages_inside_and_outside_of_a_transaction(decode: Decode) -> None:
    messages = decode(
        "SELECT pg_logical_emit_message(false, 'app.now', '\\x00ff'::bytea);"
        "BEGIN; SELECT pg_logical_emit_message(true, 'app.outbox', 'später'); COMMIT"
    )
    outside, begin, inside, commit = messages
    assert isinstance(outside, Message)
    assert isinstance(inside, Message)
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert (outside.transactional, outside.prefix, outside.content) == (False, "app.now", b"\0\xff")
    assert (inside.transactional, inside.prefix, inside.content) == (True, "app.outbox", "später".encode())
    assert 0 < outside.lsn < inside.lsn <= commit.commit_lsn


def test_origin_of_a_replicated_transaction(database: SourceDatabase, decode: Decode) -> None:
    database.execute("CREATE TABLE t (id int); SELECT pg_replication_origin_create('parser_test_node')")
    try:
        messages = decode(
            "SELECT pg_replication_origin_session_setup('parser_test_node');"
            "BEGIN; SELECT pg_replication_origin_xact_setup('0/ABC', now());"
            " INSERT INTO t VALUES (1); COMMIT;"
            "SELECT pg_replication_origin_session_reset()"
        )
    finally:
        database.execute("SELECT pg_replication_origin_drop('parser_test_node')")
    assert messages[1] == Origin(Lsn(0xABC), "parser_test_node")


def test_names_of_every_script(database: SourceDatabase, decode: Decode) -> None:
    database.execute('CREATE SCHEMA "Ünï ""q"""; CREATE TABLE "Ünï ""q"""."表 t" ("1 select" int)')
    messages = decode('INSERT INTO "Ünï ""q"""."表 t" VALUES (1)')
    (relation,) = (message for message in messages if isinstance(message, Relation))
    assert (relation.schema, relation.name, relation.columns[0].name) == ('Ünï "q"', "表 t", "1 select")


def test_binary_values_are_told_from_text(database: SourceDatabase, decode: Decode) -> None:
    database.execute("CREATE TABLE t (id int, note text)")
    messages = decode("INSERT INTO t VALUES (258, NULL)", binary=True)
    assert Insert(oid(database, "t"), (BinaryValue(b"\0\0\1\2"), None)) in messages


def test_stray_stream_aborts_of_postgresql_18(database: SourceDatabase, decode: Decode) -> None:
    """Bug #19616: an aborted transaction with a subtransaction, larger than logical_decoding_work_mem."""
    database.execute("CREATE TABLE t (id int, filler text)")
    messages = decode(
        "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); RELEASE s;"
        " INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 2000) AS i; ROLLBACK;"
        " INSERT INTO t VALUES (3)"
    )
    ((version,),) = database.fetch("SELECT current_setting('server_version_num')::int")
    strays = [message for message in messages if isinstance(message, StreamAbort)]
    # Before the transaction that follows, never within one; from 18 on, until a minor release has the fix.
    assert strays == messages[: len(strays)]
    assert all(0 < stray.xid < stray.subxid for stray in strays)
    assert len(strays) <= (1 if version >= 180000 else 0)
    assert [type(message) for message in messages[len(strays) :]] == [Begin, Relation, Insert, Commit]
