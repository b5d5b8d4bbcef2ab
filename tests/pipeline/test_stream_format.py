"""Values come in binary format where that is exact, else as text; a stream that comes to such a value begins again."""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg
import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import BadValuePolicy, Mode, TableErrorPolicy
from dbmazz_core.model.stream import StreamFormat
from dbmazz_core.settings.by_table import ByTable, parse_schema_policy
from dbmazz_core.settings.config import FlushConfig, TableConfig
from tests.pipeline.test_column_rules import chosen
from tests.support.lab import BOTH, Lab
from tests.support.postgres_fixtures import SourceDatabase, drop_database

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, at time, amount numeric(9,2), list int[], day date, note text);"
    "INSERT INTO t VALUES (1, '10:00', 1.50, '{1}', '2026-01-01', 'x')"
)


@pytest.fixture
def table(lab: Lab) -> Lab:
    lab.execute(TABLE)
    lab.capture_and_compare("t")
    return lab


def format_of_window(lab: Lab) -> StreamFormat:
    found = lab.capture_and_compare("t").format
    assert found is not None
    return found


def test_a_stream_comes_in_binary_format(table: Lab) -> None:
    table.execute("UPDATE t SET amount = 2.25, list = '{3,NULL}', day = 'infinity'; INSERT INTO t (id) VALUES (2)")
    assert format_of_window(table) == StreamFormat()
    status = table.pipeline.status()
    assert status.stream_format == StreamFormat()
    assert status.to_dict()["stream_format"] == {"binary": True, "text_reason": None}


@BOTH
def test_a_value_that_needs_text_begins_the_stream_again(table: Lab, identity: str) -> None:
    """What was committed before stays, what came since comes again; the next window is in binary format."""
    table.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
    few = table.configured(flush=FlushConfig(size=20))
    few.transactions(*(f"INSERT INTO t (id, amount) VALUES ({n}, {n})" for n in range(100, 160)))
    few.transactions(
        "UPDATE t SET at = '24:00' WHERE id = 1", "DELETE FROM t WHERE id = 100", "UPDATE t SET note = 'y'"
    )
    result = few.capture_and_compare("t")
    assert result.changes == 60 + 2 + 60
    assert result.flushes >= 3
    assert result.format is not None
    assert str(result.format) == "text: column at of public.t has a value that Time cannot hold"
    table.execute("UPDATE t SET note = 'z' WHERE id = 101")
    assert format_of_window(table).is_binary


def test_a_value_that_duckdb_cannot_hold_is_the_same_error(table: Lab) -> None:
    table.execute("UPDATE t SET amount = 'NaN'")
    with table.nothing_changes("public.t"), pytest.raises(BadValue, match="the value 'NaN' of the transaction"):
        table.configured(tables=TableConfig(on_error=ByTable(TableErrorPolicy.STOP))).capture()


def test_an_old_value_that_needs_text(lab: Lab) -> None:
    """In a table without a key, old rows are read only where they are applied: in the middle of a flush."""
    lab.execute("CREATE TABLE t (n int, at time); INSERT INTO t VALUES (1, '24:00'), (1, '24:00'), (2, '10:00')")
    lab.capture_and_compare("t")
    lab.transactions("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)", "INSERT INTO t VALUES (3, '11:00')")
    assert not format_of_window(lab).is_binary


def test_a_large_transaction_whose_last_value_needs_text(table: Lab) -> None:
    """Pieces that were applied already are taken back, and come again."""
    small = table.configured(flush=FlushConfig(size=500, max_bytes=20_000))
    small.execute(
        "BEGIN; INSERT INTO t (id, note) SELECT n, repeat('n', 100) FROM generate_series(10, 2000) n;"
        "UPDATE t SET day = '2026-02-03'; UPDATE t SET at = '24:00' WHERE id = 1000; COMMIT"
    )
    result = small.capture_and_compare("t")
    assert result.format is not None
    assert not result.format.is_binary
    assert result.changes == 1991 + 1992 + 1


@pytest.mark.parametrize("mode", [Mode.SOFT_DELETE, Mode.CHANGELOG])
def test_other_modes(lab: Lab, mode: Mode) -> None:
    kept = lab.kept(mode)
    kept.execute(TABLE)
    kept.capture_and_compare("t")
    kept.transactions("UPDATE t SET day = NULL", "INSERT INTO t (id, day) VALUES (2, '2026-05-06')", "DELETE FROM t")
    assert format_of_window(kept).is_binary
    kept.transactions("INSERT INTO t (id) VALUES (3)", "TRUNCATE t", "INSERT INTO t (id, amount) VALUES (4, 4)")
    assert format_of_window(kept).is_binary
    kept.transactions("UPDATE t SET id = 5, list = '{5}'", "UPDATE t SET at = '24:00'")
    assert not format_of_window(kept).is_binary


@pytest.mark.parametrize(
    ("change", "is_binary"),
    [
        ("ADD host inet", False),
        ("ADD moment timestamptz DEFAULT '2026-01-01 10:00+00'", True),
        ("ALTER note TYPE varchar(100)", True),
        ("ALTER list TYPE text USING list::text", True),
        ("DROP list", True),
        ("ADD until time DEFAULT '24:00'", False),
    ],
)
def test_a_definition_that_changes_in_the_middle(table: Lab, change: str, is_binary: bool) -> None:
    table.transactions("UPDATE t SET day = '2026-02-03'", f"ALTER TABLE t {change}", "INSERT INTO t (id) VALUES (2)")
    result = table.capture_and_compare("t")
    assert result.format is not None
    assert result.format.is_binary is is_binary or result.copy_anew
    table.execute("UPDATE t SET note = 'after'")
    table.capture_and_compare("t")


def test_a_column_whose_new_type_the_destination_ignores(table: Lab) -> None:
    """polars' casts are not those of DuckDB, to which text is cast."""
    rule = parse_schema_policy("SCHEMA_CHANGES", "change_type=ignore")
    ignores = table.configured(tables=TableConfig(schema_changes=rule))
    ignores.transactions("ALTER TABLE t ALTER amount TYPE numeric(11,2)", "UPDATE t SET amount = 12.50")
    result = ignores.capture()
    assert str(result.format) == "text: column amount of public.t has another type in the destination"
    assert ignores.rows("SELECT amount::VARCHAR FROM public.t") == [("12.50",)]


def test_settings_that_need_text(table: Lab) -> None:
    plain = table.configured(source={"binary": False})
    plain.execute("UPDATE t SET note = 'y'")
    assert format_of_window(plain) == StreamFormat("SOURCE_BINARY is false")
    keeping = table.configured(tables=TableConfig(on_bad_value=ByTable(BadValuePolicy.QUARANTINE)))
    keeping.execute("UPDATE t SET note = 'z'")
    assert format_of_window(keeping) == StreamFormat("public.t has ON_BAD_VALUE=quarantine, which keeps texts")


@pytest.mark.parametrize(("mask", "is_binary"), [("null", True), ("hash", False), ("truncate:2", False)])
def test_masks(lab: Lab, mask: str, is_binary: bool) -> None:
    """A mask works on texts; values that a mask makes NULL are not read, whatever their type is."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, host inet, note text); INSERT INTO t VALUES (1, '::1', 'note')")
    column = "host" if mask == "null" else "note"
    masked = chosen(lab, masks=f"t.{column}={mask}", **({} if mask == "null" else {"exclude": "t.host"}))
    masked.capture()
    masked.execute("INSERT INTO t VALUES (2, '::2', 'two')")
    result = masked.capture()
    assert result.format is not None
    assert result.format.is_binary is is_binary
    ((copied, streamed),) = masked.rows(f"SELECT min({column}), max({column}) FROM public.t")
    assert (copied is None) is (mask == "null")
    assert (streamed is None) is (mask == "null")


def test_columns_that_are_not_captured_have_any_type(lab: Lab) -> None:
    """A type without a send function comes as text; in a composite, the server cannot send it at all."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, rights aclitem, note text); INSERT INTO t (id) VALUES (1)")
    plain = chosen(lab, exclude="t.rights")
    plain.capture()
    plain.execute("INSERT INTO t VALUES (2, 'postgres=r/postgres', 'two')")
    result = plain.capture()
    assert result.format == StreamFormat()
    assert plain.rows("FROM public.t ORDER BY id") == [(1, None), (2, "two")]
    plain.execute("CREATE TYPE held AS (a aclitem, n int); ALTER TABLE t DROP rights, ADD rights held")
    plain.transactions("INSERT INTO t VALUES (3, 'three', NULL)", "INSERT INTO t VALUES (4, 'four', '(,1)')")
    plain.capture()
    plain.execute("INSERT INTO t VALUES (5, 'five', ('postgres=r/postgres', 1)::held)")
    result = plain.capture()
    assert result.format is not None
    assert "no binary output function" in str(result.format)
    assert plain.rows("SELECT id FROM public.t ORDER BY id") == [(n,) for n in range(1, 6)]


def test_a_database_in_another_encoding(server: EmbeddedPostgres, duckdb_path: Path) -> None:
    """Texts within binary values are converted as others are."""
    database = SourceDatabase(server, f"latin_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        options = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
        connection.execute(f"CREATE DATABASE {database.name} {options}".encode())
    lab = Lab(database, duckdb_path)
    try:
        lab.execute(
            "CREATE TYPE mood AS ENUM ('gl\u00fccklich'); CREATE TABLE t (id int PRIMARY KEY, v text, c char(5),"
            " n name, j jsonb, m mood, l text[], e mood[])"
        )
        row = (
            "'\u00e4\u00f6', '\u00fc', '\u00df', '{\"\u00e4\": 1}', 'gl\u00fccklich', '{\u00e4,b}', '{gl\u00fccklich}'"
        )
        lab.execute(f"INSERT INTO t VALUES (1, {row})")
        lab.capture_and_compare("t")
        lab.execute(f"INSERT INTO t VALUES (2, {row})")
        assert format_of_window(lab).is_binary
    finally:
        drop_database(database)
