"""Values of every mapped type, their edges among them, are the same from a snapshot and from the stream."""

from __future__ import annotations

import pytest

from dbmazz_core.errors import BadValue
from tests.engine.lab import Lab

VALUES: dict[str, list[str]] = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767", "0"],
    "integer": ["-2147483648", "2147483647"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "real": ["NaN", "Infinity", "-Infinity", "-0", "0", "0.1", "3.4028235e+38", "1e-45", "16777217", "1.17549435e-38"],
    "double precision": ["NaN", "Infinity", "-Infinity", "-0", "0.1", "1.7976931348623157e+308", "5e-324", "1e23"],
    "numeric(38,10)": ["9999999999999999999999999999.9999999999", "-0.0000000001", "0", "1.5"],
    "numeric(38,0)": ["99999999999999999999999999999999999999", "-99999999999999999999999999999999999999"],
    "numeric(4,2)": ["99.99", "-99.99", "0.005"],
    "numeric(3,-2)": ["99900", "-100", "49"],
    "numeric(2,5)": ["0.00099", "-0.00001"],
    "numeric(60,20)": ["1234567890123456789012345678901234567890.12345678901234567890", "NaN"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1.500", "1e1000", "-1e-1000", "0.00"],
    "text": ["", " ", "ä€😀", "a\nb\tc", "\\N", "NULL", "'quoted'", '"', "\u2028", "x" * 10_000],
    "varchar(10)": ["", "äöüß€😀", "trailing "],
    "char(6)": ["", "ä", "a b", "abcdef"],
    "char": ["x", "ä"],
    '"char"': ["x", ""],
    "name": ["a name"],
    "bytea": ["", "\\x00", "\\xdeadbeef00ff", "\\x" + "00ff" * 5000],
    "json": ['{"b": 1,  "a" : [1, 2.50, null], "b": 2}', " null ", '"\\u00e4 ä"', "1e400", "[]"],
    "jsonb": ['{"b": 1, "a": [1, 2.50, null]}', "null", '"ä"', "1e400", "12345678901234567890.123456789"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "date": ["4713-01-01 BC", "0001-01-01 BC", "0001-01-01", "5874897-12-31", "infinity", "-infinity", "2000-02-29"],
    "time": ["00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.1"],
    "time(2)": ["12:34:56.789"],
    "timestamp": ["4713-01-01 00:00:00 BC", "0044-03-15 12:30:00.5 BC", "294246-12-31 23:59:59.999999", "infinity",
                  "-infinity", "1969-12-31 23:59:59.999999", "2000-01-01 24:00:00"],
    "timestamptz": ["4713-01-02 00:00:00+00 BC", "0044-03-15 12:30:00.5+02 BC", "200000-12-31 23:59:59.999999+00",
                    "infinity", "-infinity", "2024-03-31 02:30:00 Europe/Berlin", "1883-11-18 12:00 America/New_York"],
    # Of types that are not mapped the text arrives.
    "interval": ["1 year 2 mons -3 days 04:05:06.7", "-1 day", "0"],
    "money": ["1.50", "-92233720368547758.08"],
    "timetz": ["24:00:00+15:59", "00:00:00-15:59"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "int[]": ["{1,NULL,3}", "{}", "[0:1]={5,6}"],
    "text[]": ['{"a,b","c\\"d",NULL,"NULL"}'],
    "int4range": ["[1,5)", "empty"],
    "bit(3)": ["101"],
    "point": ["(1,2)"],
    "tsvector": ["a:1 b:2"],
    "pg_lsn": ["16/B374D848"],
    "regclass": ["pg_class"],
}  # fmt: skip


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def test_snapshot_and_stream_give_the_same_values(lab: Lab) -> None:
    """One table a type, two rows a value: one is there before the first capture, one comes after it."""
    tables = [f"t{number}" for number in range(len(VALUES))]
    types = dict(zip(tables, VALUES, strict=True))
    lab.execute(
        ";".join(f"CREATE TABLE {table} (id serial PRIMARY KEY, part text, v {types[table]})" for table in tables)
    )

    def insert(part: str) -> None:
        rows = [
            f"INSERT INTO {table} (part, v) VALUES ('{part}', NULL)"
            + "".join(f", ('{part}', {literal(value)})" for value in VALUES[types[table]])
            for table in tables
        ]
        lab.execute(";".join(rows))

    insert("copied")
    lab.capture_and_compare(*tables)
    insert("streamed")
    lab.execute(";".join(f"UPDATE {table} SET part = 'changed' WHERE id = 1" for table in tables))
    result = lab.capture_and_compare(*tables)
    assert result.changes == sum(len(values) + 2 for values in VALUES.values())
    for table in tables:
        values = (
            "SELECT v::VARCHAR AS v, count(*) AS n FROM public.{} WHERE part {} 'streamed' GROUP BY ALL ORDER BY ALL"
        )
        assert lab.rows(values.format(table, "=")) == lab.rows(values.format(table, "<>")), types[table]


def test_values_of_the_users_own_types(lab: Lab) -> None:
    lab.execute(
        "CREATE TYPE mood AS ENUM ('gut', 'schlecht'); CREATE DOMAIN age AS int CHECK (VALUE > 0);"
        "CREATE DOMAIN price AS numeric(9,2); CREATE TYPE pair AS (a int, b text);"
        "CREATE TABLE t (id serial PRIMARY KEY, m mood, a age, p price, c pair, ms mood[]);"
        """INSERT INTO t (m, a, p, c, ms) VALUES ('gut', 7, 1.5, '(1,"x y")', '{gut,schlecht}')"""
    )
    lab.capture_and_compare("t")
    lab.execute("INSERT INTO t (m, a, p, c, ms) SELECT m, a, p, c, ms FROM t; UPDATE t SET a = 8")
    lab.capture_and_compare("t")


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
    [("numeric(9,2)", "NaN"), ("timestamp", "294276-12-31"), ("timestamptz", "294276-12-31 00:00+00")],
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
    assert value.split(" ")[0] in message
    assert info.value.object == "public.t.v"
    # Changed before it is looked at again, it does no harm.
    lab.execute("UPDATE t SET v = NULL WHERE id = 2")
    lab.capture_and_compare("t", "other")


def test_a_value_that_duckdb_lacks_stops_the_snapshot_of_its_table_alone(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);"
        "CREATE TABLE b (id int PRIMARY KEY, n numeric(9,2)); INSERT INTO b VALUES (1, 'NaN')"
    )
    with pytest.raises(BadValue, match=r"public\.b, column n \(numeric\(9,2\)\): the value 'NaN'") as info:
        lab.capture()
    assert "transaction 0" not in str(info.value)
    lab.execute("UPDATE b SET n = 1")
    lab.capture_and_compare("a", "b")
