"""Core types, what is stored of them, and their values outside of DuckDB: in Python and in polars' own dtypes."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.shapes import type_name
from dbmazz_core.connectors.sources import create_source
from dbmazz_core.connectors.sources.postgres.types.builtin import BY_OID, FAMILIES
from dbmazz_core.errors import BadValue
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.records import Insert, Update
from dbmazz_core.model.schema import ColumnDef
from dbmazz_core.model.values import python_value
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase

SCALARS = [DataType(kind) for kind in Kind if kind not in (Kind.DECIMAL, Kind.LIST)] + [DataType(Kind.DECIMAL, 9, 2)]


@pytest.mark.parametrize("scalar", SCALARS, ids=str)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_type_is_stored_and_read_back(scalar: DataType, depth: int) -> None:
    column = ColumnDef("c", DataType.list_of(scalar, depth=depth, delimiter=";"), "the source's")
    assert ColumnDef.from_dict(column.to_dict()) == column
    assert column.type.leaf == scalar
    assert column.type.depth == depth
    assert column.type.duckdb == scalar.duckdb + "[]" * depth


def test_columns_that_were_stored_before_there_were_lists_are_read() -> None:
    stored = {"name": "c", "kind": "Decimal", "precision": 12, "scale": 2, "source_type": "numeric(12,2)"}
    assert ColumnDef.from_dict(stored) == ColumnDef("c", DataType(Kind.DECIMAL, 12, 2), "numeric(12,2)")


@pytest.mark.parametrize("scalar", SCALARS, ids=str)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_duckdb_calls_types_as_we_expect_it_to(scalar: DataType, depth: int) -> None:
    import duckdb

    type = DataType.list_of(scalar, depth=depth)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t (c {type.duckdb})")
        ((found,),) = connection.execute(
            "SELECT data_type FROM information_schema.columns WHERE table_name = 't'"
        ).fetchall()
    assert found == type_name(type)


def test_the_oids_are_the_servers(database: SourceDatabase) -> None:
    rows = database.fetch(
        "SELECT oid::bigint, typarray::bigint, format_type(oid, NULL), typdelim::text FROM pg_type "
        "WHERE oid::bigint = ANY (%s)",
        list(BY_OID),
    )
    assert {oid: (array, name, delimiter) for oid, array, name, delimiter in rows} == {
        oid: (entry.array_oid, entry.name, entry.delimiter) for oid, entry in BY_OID.items()
    }
    assert len(BY_OID) == sum(map(len, FAMILIES.values()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 day", timedelta(days=1)),
        ("-2 days -03:04:05.6", -timedelta(days=2, hours=3, minutes=4, seconds=5.6)),
        ("00:00:00", timedelta()),
        ("-00:00:00.000001", -timedelta(microseconds=1)),
        # 24 hours are not a day, and a day less an hour is not 23 hours.
        ("24:00:00", "24:00:00"),
        ("1 day -01:00:00", "1 day -01:00:00"),
        ("1 mon", "1 mon"),
        ("1 year 2 mons 3 days", "1 year 2 mons 3 days"),
        ("infinity", "infinity"),
        ("2147483647 days", "2147483647 days"),
    ],
)
def test_intervals_in_python(text: str, value: timedelta | str) -> None:
    assert python_value(text, DataType(Kind.INTERVAL)) == value


def test_times_with_a_zone_in_python() -> None:
    kind = DataType(Kind.TIMETZ)
    assert python_value("12:30:00.5+05:30", kind) == time(12, 30, 0, 500_000, timezone(timedelta(hours=5, minutes=30)))
    assert python_value("24:00:00+00", kind) == "24:00:00+00"


@pytest.fixture
def lab(database: SourceDatabase, tmp_path: Path) -> Lab:
    return Lab(database, tmp_path / "unused.duckdb")


def test_records_hold_pythons_own_types(lab: Lab) -> None:
    lab.execute(
        "CREATE EXTENSION hstore;"
        "CREATE TABLE t (id int PRIMARY KEY, l int[], m numeric(9,2)[][], d date[], h hstore, hs hstore[], i interval)"
    )
    with create_source(lab.config) as source:
        source.start()
        lab.execute(
            "INSERT INTO t VALUES (1, '{1,NULL}', '{{1.5},{2}}', '{2024-02-29,infinity}', 'a=>1,b=>NULL',"
            """ ARRAY['x=>"y"'::hstore, NULL], '1 day'); UPDATE t SET l = '{}', i = '1 mon'"""
        )
        until = source.reachable_lsn()
        told = [record for record in source.records(until=until) if isinstance(record, (Insert, Update))]
    with create_source(lab.config) as source:
        source.start()
        batches = [event for event in source.batches(until=until) if isinstance(event, ChangeBatch)]
        assert [record for batch in batches for record in batch.records()] == told
    inserted, updated = told
    assert isinstance(inserted, Insert)
    assert isinstance(updated, Update)
    assert inserted.columns == {
        "id": 1,
        "l": [1, None],
        "m": [[Decimal("1.50")], [Decimal("2.00")]],
        "d": [date(2024, 2, 29), "infinity"],
        "h": {"a": "1", "b": None},
        "hs": [{"x": "y"}, None],
        "i": timedelta(days=1),
    }
    assert (updated.new_columns["l"], updated.new_columns["i"]) == ([], "1 mon")


def test_typed_casts_elements_of_lists_and_names_the_first_that_does_not_fit(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, d date[], m numeric(9,2)[][], ts timestamptz[], h text[])")
    with create_source(lab.config) as source:
        source.start()
        lab.transactions(
            """INSERT INTO t VALUES (1, '{2024-02-29,NULL}', '{{1.5},{-2}}', '{"2024-02-29 12:00:00.5+02"}', '{a}'),"""
            "(2, '{}', NULL, NULL, NULL)",
            "INSERT INTO t VALUES (3, '{}'), (4, '{2024-01-01,infinity}')",
        )
        until = source.reachable_lsn()
        fitting, other = (b for b in source.batches(rows=1, until=until) if isinstance(b, ChangeBatch))
    frame = fitting.typed()
    assert frame.schema == {
        "id": pl.Int32,
        "d": pl.List(pl.Date),
        "m": pl.List(pl.List(pl.Decimal(9, 2))),
        "ts": pl.List(pl.Datetime("us", "UTC")),
        "h": pl.List(pl.String),
    }
    assert frame["d"].to_list() == [[date(2024, 2, 29), None], []]
    assert frame["m"].to_list() == [[[Decimal("1.50")], [Decimal("-2.00")]], None]
    [[moment], _] = frame["ts"].to_list()
    assert moment == datetime.fromisoformat("2024-02-29 10:00:00.500000+00:00")
    xid = int(other.xid[np.flatnonzero(other.ops)[1]])
    with pytest.raises(BadValue, match=rf"public\.t, column d .*infinity.*transaction {xid}"):
        other.typed()
