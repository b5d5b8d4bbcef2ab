"""The error for a value that cannot be held names its row, as a condition that finds it in PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import cycle

import pytest

from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import BadValue
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.settings.by_table import parse_column_masks
from tests.support.lab import Lab

#: Read by the decoder; by a reader of nested values; and what only DuckDB's cast refuses.
BAD = [("numeric(9,2)", "NaN"), ("int[]", "{{1},{2}}"), ("timestamp", "294276-12-31 23:59:59")]
KEYS = [
    ("id int", "7", "8"),
    ('a text, "B" int', "'it''s', 2", "'it''s', 3"),
    ("k bytea", r"'\x00ff'", r"'\x00fe'"),
    ("k uuid", "'00000000-0000-0000-0000-00000000000a'", "'00000000-0000-0000-0000-00000000000b'"),
    ("d date, t timestamptz", "'2024-02-29', '2024-02-29 12:00:00+00'", "'2024-02-29', '2024-02-29 12:00:01+00'"),
    ("b bool, n numeric", "true, 1.50", "false, 1.50"),
    ("k numeric(38,2)", "-1.50", "1.50"),
]
WAYS = pytest.mark.parametrize("streamed", [False, True], ids=["copied", "streamed"])


def prepared(lab: Lab, columns: str, type: str, *, identity: str = "DEFAULT") -> None:
    names = ", ".join(re.sub(r" \S+$", "", column) for column in columns.split(", "))
    lab.execute(
        f"CREATE TABLE t ({columns}, v {type}, PRIMARY KEY ({names})); ALTER TABLE t REPLICA IDENTITY {identity}"
    )


def stopped_by(lab: Lab, insert: str, *, streamed: bool) -> BadValue:
    if streamed:
        lab.capture()
    lab.execute(insert)
    with pytest.raises(BadValue) as error:
        lab.capture()
    return error.value


def condition(error: BadValue) -> str:
    match = re.search(r"\) of the row (.+): the value ", error.what)
    assert match is not None, error.what
    return match[1]


def found(lab: Lab, error: BadValue) -> list[tuple[str]]:
    with lab.database.connect() as connection:
        return connection.execute(f"SELECT v::text FROM t WHERE {condition(error)}".encode()).fetchall()


@pytest.mark.each_value
@WAYS
@pytest.mark.parametrize(("key", "bad"), list(zip(KEYS, cycle(BAD), strict=False)))
def test_its_key_finds_the_row(lab: Lab, key: tuple[str, str, str], bad: tuple[str, str], streamed: bool) -> None:
    (columns, row, other), (type, value) = key, bad
    prepared(lab, columns, type)
    error = stopped_by(lab, f"INSERT INTO t VALUES ({other}, NULL), ({row}, '{value}')", streamed=streamed)
    assert found(lab, error) == [(value,)]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_of_an_update(lab: Lab, identity: str) -> None:
    prepared(lab, "id int", "numeric(9,2)", identity=identity)
    lab.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.capture()
    lab.execute("UPDATE t SET id = id + 10, v = 'NaN' WHERE id = 2")
    with lab.nothing_changes("public.t"), pytest.raises(BadValue) as error:
        lab.capture()
    assert condition(error.value) == "id = 12"


@pytest.mark.parametrize(("type", "value"), [("timestamp", "infinity"), ("int[]", "{{1}}")])
def test_of_polars_own_dtypes_and_of_records(lab: Lab, type: str, value: str) -> None:
    """An infinite time has its place in records and frames, and none in polars' Datetime."""
    prepared(lab, 'a text, "B" int, k bytea', type)
    lab.capture()
    lab.execute(rf"INSERT INTO t VALUES ('x', 1, '\x00', '{value}')")
    with PostgresSource(lab.config) as source:
        source.start_replication_from(lab.checkpoint)
        (batch,) = [batch for batch in source.batches(until=source.reachable_lsn()) if isinstance(batch, ChangeBatch)]
    reads: list[Callable[[], object]] = [batch.typed]
    if type == "int[]":
        reads += [batch.frame, lambda: list(lab.pipeline.peek(10))]
    for read in reads:
        with pytest.raises(BadValue) as error:
            read()
        assert found(lab, error.value) == [(value,)]


@WAYS
def test_a_part_of_a_key_that_is_bad_itself_is_shown_as_the_value_only(lab: Lab, streamed: bool) -> None:
    prepared(lab, "k numeric(9,2), j int", "text")
    error = stopped_by(lab, "INSERT INTO t VALUES ('NaN', 3, '')", streamed=streamed)
    assert condition(error) == "j = 3"
    assert "the value 'NaN'" in error.what


@WAYS
def test_without_a_key_there_is_no_name(lab: Lab, streamed: bool) -> None:
    lab.execute("CREATE TABLE t (n numeric(9,2), v text); ALTER TABLE t REPLICA IDENTITY FULL")
    error = stopped_by(lab, "INSERT INTO t VALUES ('NaN', 'private')", streamed=streamed)
    assert "column n (numeric(9,2)): the value 'NaN'" in error.what
    assert "private" not in str(error)


@WAYS
def test_what_is_masked_is_not_told(lab: Lab, streamed: bool) -> None:
    lab = lab.configured(source={"masks": parse_column_masks("COLUMNS_MASK", "t.name=hash"), "mask_key": "k"})
    prepared(lab, "name text, n int", "numeric(9,2)")
    error = stopped_by(lab, "INSERT INTO t VALUES ('private', 5, 'NaN')", streamed=streamed)
    assert condition(error) == "n = 5"
    assert "private" not in str(error)


@WAYS
def test_a_long_key_is_shortened(lab: Lab, streamed: bool) -> None:
    prepared(lab, "k text", "numeric(9,2)")
    error = stopped_by(lab, f"INSERT INTO t VALUES ('{'ä' * 2000}', 'NaN')", streamed=streamed)
    assert condition(error) == f"k = '{'ä' * 77}...'"
