"""Columns of frames as PostgreSQL's text, and as typed values: the destination's table is the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from dbmazz_core.connectors.sinks.duckdb import DuckDBSink
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.frame_columns import COMMIT_LSN, XID, value_column
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.table_ref import TableRef

#: By type: texts of PostgreSQL, and the same values.
VALUES: dict[DataType, tuple[list[str | None], list[Any]]] = {
    DataType(Kind.DATE): (["2024-02-29", None], [date(2024, 2, 29), None]),
    DataType(Kind.TIME): (["12:34:56.789", "00:00:00"], [time(12, 34, 56, 789000), time(0)]),
    DataType(Kind.TIMESTAMP): (["2024-02-29 12:00:00.5", None], [datetime(2024, 2, 29, 12, 0, 0, 500000), None]),
    DataType(Kind.TIMESTAMPTZ): (["2024-02-29 12:00:00+02", None], [datetime(2024, 2, 29, 10, tzinfo=UTC), None]),
    DataType(Kind.DECIMAL, 12, 2): (["-12.50", "0.00"], [Decimal("-12.50"), Decimal("0.00")]),
    DataType.list_of(DataType(Kind.DATE)): ([["2024-02-29"], []], [[date(2024, 2, 29)], []]),  # type: ignore[dict-item]
}
TABLE = TableRef("public", "t")
SCHEMA = TableSchema(
    TABLE,
    (
        ColumnDef("id", DataType(Kind.INT64), "bigint"),
        *(ColumnDef(f"v{number}", type, str(type)) for number, type in enumerate(VALUES)),
    ),
    ("id",),
)
CHECKPOINT = Checkpoint("s", Lsn(1), "1", 1, "db")


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[DuckDBSink]:
    with DuckDBSink(SinkConfig(url=str(tmp_path / "d.duckdb")), feed="s") as sink:
        with sink.begin() as transaction:
            loader = transaction.create_table(
                TableShape.of(SCHEMA, None), snapshot_lsn=Lsn(1), mode=Mode.MIRROR, complete=True
            )
            loader.finish()
            transaction.commit(CHECKPOINT)
        yield sink


def frame(ids: list[int], *, typed: bool) -> pl.DataFrame:
    columns = [pl.Series(value_column(0), ids, dtype=pl.Int64)]
    for place, (type, (texts, values)) in enumerate(VALUES.items(), 1):
        dtype = type.natural if typed else type.carrier
        columns.append(pl.Series(value_column(place), values if typed else texts, dtype=dtype))
    return pl.DataFrame(columns)


def changes(ids: list[int], *, typed: bool) -> pl.DataFrame:
    position = [pl.lit(7, dtype=pl.UInt64).alias(COMMIT_LSN), pl.lit(9, dtype=pl.UInt32).alias(XID)]
    return frame(ids, typed=typed).with_columns(position)


def rows(sink: DuckDBSink, ids: tuple[int, ...]) -> list[tuple[Any, ...]]:
    with duckdb.connect(sink.path) as connection:
        return connection.execute(f"SELECT * EXCLUDE (id) FROM public.t WHERE id IN {ids} ORDER BY id").fetchall()


def test_typed_values_and_texts_give_the_same_rows(sink: DuckDBSink) -> None:
    with sink.begin() as transaction:
        transaction.apply(NetEffect(SCHEMA, appends=changes([1, 2], typed=False)))
        transaction.apply(NetEffect(SCHEMA, appends=changes([3, 4], typed=True)))
        transaction.commit(CHECKPOINT)
    assert rows(sink, (1, 2)) == rows(sink, (3, 4))
    assert rows(sink, (3, 4))[0][0] == date(2024, 2, 29)


@pytest.mark.parametrize("typed", [False, True])
def test_an_upsert_in_the_other_encoding_replaces_the_row(sink: DuckDBSink, typed: bool) -> None:
    with sink.begin() as transaction:
        transaction.apply(NetEffect(SCHEMA, appends=changes([1, 2], typed=not typed)))
        transaction.commit(CHECKPOINT)
    first, second = rows(sink, (1, 2))
    assert first != second
    with sink.begin() as transaction:
        transaction.apply(NetEffect(SCHEMA, upserts=changes([2, 1], typed=typed)))
        transaction.commit(CHECKPOINT)
    assert rows(sink, (1, 2)) == [second, first]


@pytest.mark.parametrize("typed", [False, True])
def test_a_snapshot_is_loaded_in_either_encoding(sink: DuckDBSink, typed: bool) -> None:
    with sink.begin() as transaction:
        shape = TableShape.of(SCHEMA, None)
        loader = transaction.create_table(shape, snapshot_lsn=Lsn(1), mode=Mode.MIRROR, complete=True)
        loader.append(frame([1, 2], typed=typed))
        loader.finish()
        transaction.apply(NetEffect(SCHEMA, appends=changes([3, 4], typed=not typed)))
        transaction.commit(CHECKPOINT)
    assert rows(sink, (1, 2)) == rows(sink, (3, 4))
