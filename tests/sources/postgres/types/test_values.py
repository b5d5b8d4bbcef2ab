"""Values of every mapped type, their edges among them, are the same from a snapshot and from the stream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.connectors.sources.postgres.types import CatalogTypes, ColumnOfType, TypePolicy
from dbmazz_core.errors import BadValue
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.stream import NewSchema, StreamFormat
from dbmazz_core.table_ref import quote_literal
from tests.support.lab import BOTH, Lab, toast
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading
from tests.support.type_values import NEGATIVE_ZERO, NOT_KEYS, OTHER_SPELLINGS, has_icu, in_binary_format, prepare

SPLIT = ("copied", "streamed")
FORMATS = pytest.mark.parametrize("format", ["text", "binary"])


def values_in(format: str, lab: Lab) -> dict[str, list[str]]:
    """Values by type, whose stream comes in this format."""
    values = prepare(lab.database)
    return in_binary_format(values) if format == "binary" else values


def tables_of(values: Mapping[str, list[str]]) -> dict[str, str]:
    """A table a type, by name."""
    return {f"t{number}": type for number, type in enumerate(values)}


def insert(lab: Lab, part: str, types: Mapping[str, str], values: Mapping[str, list[str]]) -> None:
    """NULL and every value, numbered from 0, into each table."""
    lab.execute(
        ";".join(
            f"INSERT INTO {table} (part, n, v) VALUES ('{part}', 0, NULL)"
            + "".join(f", ('{part}', {n}, {quote_literal(value)})" for n, value in enumerate(values[type], 1))
            for table, type in types.items()
        )
    )


def from_snapshot_and_stream(lab: Lab, identity: str, values: Mapping[str, list[str]]) -> StreamFormat:
    """Compare the values of each type; return the format in which the stream brought them."""
    types = tables_of(values)
    lab.execute(
        ";".join(
            f"CREATE TABLE {table} (id serial PRIMARY KEY, part text, n int, v {type});"
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}"
            for table, type in types.items()
        )
    )
    insert(lab, "copied", types, values)
    lab.capture_and_compare(*types)
    insert(lab, "streamed", types, values)
    result = lab.capture_and_compare(*types)
    assert result.changes == sum(len(texts) + 1 for texts in values.values())
    with reading(lab.path) as destination:
        for table, type in types.items():
            # The oracle reads the destination's text by rules; between the two ways it has to be the same without any.
            query = f"SELECT CAST(v AS VARCHAR) FROM public.{table} WHERE part = '{{}}' ORDER BY n"
            copied, streamed = (destination.execute(query.format(part)).fetchall() for part in SPLIT)
            assert copied == streamed, type

    # Each value takes the place of another, also one that equals it; then some rows go.
    for table, type in types.items():
        count = len(values[type]) + 1
        lab.execute(
            f"UPDATE {table} a SET v = b.v FROM {table} b "
            f"WHERE a.part = b.part AND b.n = (a.n + 1) % {count} AND a.part = 'copied';"
            f"DELETE FROM {table} WHERE part = 'streamed' AND n % 2 = 1"
        )
    again = lab.capture_and_compare(*types)
    assert result.format == again.format
    assert result.format is not None
    return result.format


def test_snapshot_and_stream_give_the_same_values(lab: Lab) -> None:
    """One table a type; values are there before the first capture, come after it, replace each other and go."""
    assert not from_snapshot_and_stream(lab, "DEFAULT", prepare(lab.database)).is_binary


@BOTH
def test_snapshot_and_stream_give_the_same_values_in_binary_format(lab: Lab, identity: str) -> None:
    assert from_snapshot_and_stream(lab, identity, in_binary_format(prepare(lab.database))).is_binary


@FORMATS
@pytest.mark.slow
@pytest.mark.matrix
def test_every_version_gives_the_same_values(matrix_database: SourceDatabase, duckdb_path: Path, format: str) -> None:
    """Likewise, with whole rows as what identifies them."""
    lab = Lab(matrix_database, duckdb_path)
    values = values_in(format, lab)
    assert from_snapshot_and_stream(lab, "FULL", values).is_binary is (format == "binary")


@FORMATS
@pytest.mark.timeout(900)
def test_values_of_every_type_in_a_table_without_a_key(lab: Lab, format: str) -> None:
    """Equal rows are counted; a delete removes one that is alike in every bit."""
    values = values_in(format, lab)
    types = tables_of(values)
    lab.execute(";".join(f"CREATE TABLE {table} (part text, n int, v {type})" for table, type in types.items()))
    insert(lab, "copied", types, values)
    lab.capture_and_compare(*types)
    insert(lab, "copied", types, values)
    lab.capture_and_compare(*types)
    lab.execute(
        ";".join(
            # One of two equal rows, the first value's both, and one that equals what it becomes.
            f"DELETE FROM {table} WHERE ctid IN (SELECT min(ctid) FROM {table} WHERE n <> 1 GROUP BY n) OR n = 1;"
            f"UPDATE {table} SET v = NULL WHERE n = 2; UPDATE {table} SET n = 3 WHERE n = 2"
            for table in types
        )
    )
    lab.capture_and_compare(*types)


@FORMATS
@pytest.mark.parametrize("identity", ["DEFAULT", pytest.param("FULL", marks=pytest.mark.slow)])
def test_keys_of_every_type(lab: Lab, identity: str, format: str) -> None:
    """Rows are found again by keys of each type that PostgreSQL takes as key."""
    values = {type: texts for type, texts in values_in(format, lab).items() if type not in NOT_KEYS}
    # Of values that are one key to PostgreSQL the first remains; what is too long for an index is left out.
    types = tables_of(values)
    lab.execute(
        ";".join(
            f"CREATE TABLE {table} (v {type} PRIMARY KEY, n int, big text);"
            f"ALTER TABLE {table} REPLICA IDENTITY {identity};"
            + ";".join(
                f"INSERT INTO {table} VALUES ({quote_literal(value)}, {n}, {toast(n)}) ON CONFLICT DO NOTHING"
                for n, value in enumerate(values[type])
                if len(value) < 5000
            )
            for table, type in types.items()
        )
    )
    lab.capture_and_compare(*types)
    lab.execute(
        ";".join(
            f"UPDATE {table} SET n = n + 100; DELETE FROM {table} WHERE n = 101;"
            f"UPDATE {table} SET n = -1 WHERE n = 100; UPDATE {table} SET big = NULL WHERE n = 102"
            for table in types
        )
    )
    lab.capture_and_compare(*types)
    lab.execute(";".join(f"DELETE FROM {table}" for table in types))
    lab.capture_and_compare(*types)


@pytest.mark.each_value
@pytest.mark.parametrize("changes", ["spelling", "spelling and more", "there and back", "insert again"])
@BOTH
def test_a_key_spelled_otherwise(lab: Lab, identity: str, changes: str) -> None:
    """To PostgreSQL one key, to the destination another text: the row stays one, and is written as in the source."""
    prepare(lab.database)
    spellings = dict(OTHER_SPELLINGS)
    if has_icu(lab.database):
        lab.execute(
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
            "CREATE DOMAIN ci AS text COLLATE nocase"
        )
    else:
        del spellings["ci"]
    types = tables_of({type: [] for type in spellings})
    for table, type in types.items():
        one, _ = OTHER_SPELLINGS[type]
        lab.execute(
            f"CREATE TABLE {table} (v {type} PRIMARY KEY, n int, big text); INSERT INTO {table} VALUES"
            f" ({quote_literal(one)}, 1, {toast('a')}); ALTER TABLE {table} REPLICA IDENTITY {identity}"
        )
    lab.capture_and_compare(*types)
    for table, type in types.items():
        one, other = map(quote_literal, OTHER_SPELLINGS[type])
        match changes:
            case "spelling":
                lab.execute(f"UPDATE {table} SET v = {other}")
            case "spelling and more":
                lab.transactions(f"UPDATE {table} SET v = {other}, n = 2", f"UPDATE {table} SET n = 3")
            case "there and back":
                lab.transactions(f"UPDATE {table} SET v = {other}", f"UPDATE {table} SET v = {one}, n = 4")
            case _:
                lab.transactions(f"DELETE FROM {table}", f"INSERT INTO {table} VALUES ({other}, 5)")
    lab.capture_and_compare(*types)
    lab.execute(";".join(f"UPDATE {table} SET n = 6" for table in types))
    lab.capture_and_compare(*types)
    lab.execute(";".join(f"DELETE FROM {table}" for table in types))
    lab.capture_and_compare(*types)


def test_a_value_that_duckdb_takes_for_the_same_is_written_all_the_same(trap: Lab) -> None:
    """DuckDB leaves out an update from -0 to 0, and from a month to 30 days."""
    zero = NEGATIVE_ZERO
    trap.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, f real, d float8, i interval, l float8[], big text);"
        f"INSERT INTO t SELECT n, '{zero}', 0, '1 mon', '{{{zero}}}', {toast('x')} FROM generate_series(1, 3) n"
    )
    trap.capture_and_compare("t")
    trap.transactions(
        f"UPDATE t SET f = 0, d = '{zero}', i = '30 days', l = '{{0}}' WHERE id = 1",  # big is not sent
        f"UPDATE t SET f = 0, d = '{zero}', i = '30 days', l = '{{0}}', big = NULL WHERE id = 2",
        "UPDATE t SET d = 0, i = '720 hours' WHERE id = 3",
    )
    trap.capture_and_compare("t")


@BOTH
def test_lists_and_maps_beside_values_that_were_not_sent(trap: Lab, identity: str) -> None:
    """Unchanged TOAST values among lists and maps come from where they are, as others do."""
    trap.execute(
        "CREATE EXTENSION hstore; CREATE TABLE t (id int PRIMARY KEY, n int, l text[], h hstore, m int[][]);"
        f"ALTER TABLE t REPLICA IDENTITY {identity}; INSERT INTO t SELECT n, n, ARRAY[{toast('l')}, NULL, n::text],"
        f" hstore(ARRAY['k', n::text], ARRAY[{toast('h')}, NULL]), NULL FROM generate_series(1, 6) n"
    )
    trap.capture_and_compare("t")
    trap.transactions(
        "UPDATE t SET n = 10 WHERE id = 1",
        "UPDATE t SET id = -2, n = 20 WHERE id = 2",
        "UPDATE t SET l = '{}', n = 30 WHERE id = 3; UPDATE t SET n = 31, m = '{{1,2},{3,4}}' WHERE id = 3",
        f"UPDATE t SET h = hstore('x', {toast('x')}) WHERE id = 4; UPDATE t SET n = 40, id = -4 WHERE id = 4",
        f"INSERT INTO t VALUES (7, 7, ARRAY[{toast('7')}], hstore('y', {toast('7')}));UPDATE t SET n = 70 WHERE id = 7",
        "DELETE FROM t WHERE id = 5",
    )
    trap.capture_and_compare("t")


def test_a_key_before_christ_moves_with_a_value_that_was_not_sent(trap: Lab) -> None:
    """The old key finds the destination's row, in DuckDB's writing of dates BC."""
    trap.execute(
        "CREATE TABLE t (d date, ts timestamptz, i interval, big text, PRIMARY KEY (d, ts, i));"
        f"INSERT INTO t SELECT '0044-03-15 BC', '0044-03-15 12:00+00 BC', '-1 day +01:00', {toast('x')}"
    )
    trap.capture_and_compare("t")
    trap.execute("UPDATE t SET d = '0043-03-15 BC'")
    trap.capture_and_compare("t")


def test_types_that_come_up_while_streaming(lab: Lab) -> None:
    """An enum gets a label, a table a column of a type that did not exist before; then both go again."""
    lab.execute("CREATE TYPE mood AS ENUM ('gut'); CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[])")
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t VALUES (1, 'gut', '{gut}')",
        "ALTER TYPE mood ADD VALUE 'schlecht'",
        "INSERT INTO t VALUES (2, 'schlecht', '{gut,schlecht}')",
        "ALTER TYPE mood RENAME VALUE 'gut' TO 'besser'",
        "INSERT INTO t VALUES (3, 'besser', '{besser}')",
    )
    # The stream says nothing of the label that is called otherwise in older rows: the catalog does.
    assert lab.capture_and_compare("t").copy_anew


def test_a_type_that_is_gone_when_its_rows_are_read_is_text(lab: Lab) -> None:
    """Relation messages tell of the past; a table dropped with its type still has changes to come."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lab.capture_and_compare("t")
    resolver = CatalogTypes(lambda: connection)
    with lab.database.connect() as connection:
        columns = [ColumnOfType("gone", 4_000_000_000, -1), ColumnOfType("id", 23, -1), ColumnOfType("l", 1007, -1)]
        resolved = resolver.columns(lab.ref("nowhere"), 4_000_000_001, columns)
    assert [(c.name, str(c.type), c.source_type) for c in resolved] == [
        ("gone", "String", "type with OID 4000000000"),
        ("id", "Int32", "integer"),
        ("l", "List{Int32}", "integer[]"),
    ]


def test_what_the_catalog_says_of_types(lab: Lab) -> None:
    prepare(lab.database)
    lab.execute("CREATE SCHEMA other; CREATE TYPE other.hstore AS (a int); CREATE DOMAIN other.mood AS int")
    types = {
        "int[]": "List{Int32}",
        "int[][]": "List{List{Int32}}",
        "numeric(9,2)[]": "List{Decimal{9,2}}",
        "price": "Decimal{9,2}",
        "price[]": "List{Decimal{9,2}}",
        "youth": "Int32",
        "youth[]": "List{Int32}",
        "tags": "List{String}",
        "grid": "List{List{Int32}}",
        "tags[]": "List{String}",
        "mood": "String",
        "mood[]": "List{String}",
        "pair": "String",
        "pair[]": "List{String}",
        "hstore": "Map{String,String}",
        "hstore[]": "List{Map{String,String}}",
        "other.hstore": "String",
        "other.mood": "Int32",
        "int2vector": "String",
        "interval": "Interval",
        "oid": "UInt32",
        "timetz[]": "List{TimeTz}",
        "numeric": "String",
    }
    lab.execute("CREATE TABLE t (" + ", ".join(f"c{n} {type}" for n, type in enumerate(types)) + ")")

    def resolved(policy: TypePolicy | None = None) -> dict[str, str]:
        with PostgresSource(lab.config, types=policy) as source:
            source.setup()
            (table,) = source.catalog([table.oid for table in source.tables()]).values()
        return dict(zip(types, (str(column.type) for column in table.schema.columns), strict=True))

    assert resolved() == types
    assert resolved(TypePolicy(unbounded_numeric="double"))["numeric"] == "Float64"
    assert set(resolved(TypePolicy(as_text=lambda table, _: table == lab.ref("t"))).values()) == {"String"}


@BOTH
def test_the_stream_and_the_catalog_agree_on_types(lab: Lab, identity: str) -> None:
    """A Relation message names OIDs only; what it comes to is what the catalog says, by any policy."""
    types = list(prepare(lab.database))
    lab.execute(
        "CREATE TABLE t (id numeric PRIMARY KEY, n numeric, "
        + ", ".join(f"c{n} {type}" for n, type in enumerate(types))
        + f"); ALTER TABLE t REPLICA IDENTITY {identity}"
    )
    policy = TypePolicy(unbounded_numeric="double", as_text=lambda _, name: name == "c3")
    with PostgresSource(lab.config, types=policy) as source:
        source.start()
        lab.execute("INSERT INTO t (id, n) VALUES (1.0, 1.0), (1.00000000000000000001, 1.00000000000000000001)")
        events = list(source.batches(until=source.reachable_lsn()))
        (table,) = source.catalog([table.oid for table in source.tables()]).values()
    described, batch = events
    assert isinstance(described, NewSchema)
    assert described.schema == table.schema
    # Doubles that are equal must not make two keys one.
    assert [str(column.type) for column in table.schema.columns[:2]] == ["String", "Float64"]
    assert str(table.schema.columns[5].type) == "String"
    assert isinstance(batch, ChangeBatch)
    assert batch.values(batch.new, 0).to_list() == ["1.0", "1.00000000000000000001"]
    assert batch.values(batch.new, 1).to_list() == [1.0, 1.0]


def test_the_roles_own_settings_do_not_change_values(lab: Lab) -> None:
    """ALTER ROLE and ALTER DATABASE give every session other forms of text."""
    settings = ["DateStyle = 'German, DMY'", "IntervalStyle = 'iso_8601'", "TimeZone = 'Asia/Kolkata'",
                "bytea_output = 'escape'", "extra_float_digits = -5"]  # fmt: skip
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, d date, ts timestamp, tz timestamptz, b bytea, f float8, i interval);"
        "INSERT INTO t VALUES (1, '2024-02-01', '2024-02-01 10:00', '2024-02-01 10:00+00', '\\x00ff', 0.1, '1 day')"
    )
    for _ in range(2):  # from a snapshot, then from the stream
        for setting in settings:
            lab.execute(f'ALTER DATABASE "{lab.database.name}" SET {setting}')
        lab.capture()
        lab.execute(f'ALTER DATABASE "{lab.database.name}" RESET ALL')
        lab.assert_equal("t")
        lab.execute("INSERT INTO t SELECT id + (SELECT max(id) FROM t), d, ts, tz, b, f, i FROM t")


@pytest.mark.parametrize(
    ("type", "value"),
    [
        ("numeric(9,2)", "NaN"),
        ("timestamp", "294276-12-31"),
        ("timestamptz", "294276-12-31 00:00+00"),
        pytest.param("interval", "infinity", marks=pytest.mark.since(17)),
        pytest.param("interval", "-infinity", marks=pytest.mark.since(17)),
        ("numeric(9,2)[]", "{1.00,NaN}"),
        ("timestamp[][]", '{{"2024-01-01 00:00:00"},{"294276-12-31 00:00:00"}}'),
        pytest.param("interval[]", "{NULL,infinity}", marks=pytest.mark.since(17)),
    ],
)
def test_a_value_that_duckdb_lacks_stops_the_flush_and_says_where(lab: Lab, type: str, value: str) -> None:
    lab.execute(f"CREATE TABLE t (id int PRIMARY KEY, v {type}); INSERT INTO t VALUES (1, NULL)")
    lab.execute("CREATE TABLE other (id int PRIMARY KEY)")
    lab.capture_and_compare("t", "other")
    lab.transactions("INSERT INTO other VALUES (1)", "INSERT INTO t VALUES (2, NULL)")
    with lab.database.connect() as connection, connection.transaction():
        connection.execute(f"UPDATE t SET v = '{value}' WHERE id = 2".encode())
        ((xid,),) = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchall()
    lab.execute("INSERT INTO other VALUES (2)")
    with lab.nothing_changes("public.t", "public.other"), pytest.raises(BadValue) as info:
        lab.capture()
    message = str(info.value)
    assert "public.t, column v" in message
    assert f"transaction {xid} committed at " in message
    element = re.split(r"[{,]", value)[-1].strip('}"')  # of a list the last, which is the one
    assert element.split(" ")[0] in message
    assert info.value.object == "public.t.v"
    # Changed before it is looked at again, it does no harm.
    lab.execute("UPDATE t SET v = NULL WHERE id = 2")
    lab.capture_and_compare("t", "other")


@pytest.mark.parametrize(("type", "value"), [("int[]", "{{1,2},{3,4}}"), ("int[][]", "{1,2}")])
def test_an_array_of_other_dimensions_than_declared_stops_and_says_where(lab: Lab, type: str, value: str) -> None:
    """PostgreSQL takes no notice of the dimensions that a column is declared with; DuckDB's types do."""
    lab.execute(f"CREATE TABLE t (id int PRIMARY KEY, v {type}); INSERT INTO t VALUES (1, '{{}}')")
    lab.capture_and_compare("t")
    lab.execute(f"INSERT INTO t VALUES (2, '{value}')")
    with lab.nothing_changes("public.t"), pytest.raises(BadValue, match=re.escape(f"the value '{value}' of")) as info:
        lab.capture()
    assert info.value.object == "public.t.v"
    with pytest.raises(BadValue, match=re.escape(f"the value '{value}' cannot be held by List")):
        lab.capture(resnapshot=[lab.ref("t")])
    # As the remedy says: change the value, and re-snapshot the table.
    lab.execute("UPDATE t SET v = NULL WHERE id = 2")
    lab.capture(resnapshot=[lab.ref("t")])
    lab.assert_equal("t")


def test_a_value_that_duckdb_lacks_stops_the_snapshot_of_its_table_alone(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);"
        "CREATE TABLE b (id int PRIMARY KEY, n numeric(9,2)); INSERT INTO b VALUES (1, 'NaN')"
    )
    named = r"public\.b, column n \(numeric\(9,2\)\) of the row id = 1: the value 'NaN'"
    with pytest.raises(BadValue, match=named) as info:
        lab.capture()
    assert "transaction 0" not in str(info.value)
    lab.execute("UPDATE b SET n = 1")
    lab.capture_and_compare("a", "b")
