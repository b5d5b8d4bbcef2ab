"""Rows of the quarantine table: a row of the source as text, with the reason why the table does not have it."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import OPERATION_NAMES, ChangeBatch, Indexes, Mask
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import CopiedRows

#: Columns of `_dbmazz.quarantine`, without feed, table and time.
ROWS = {
    "commit_lsn": pl.UInt64,
    "xid": pl.UInt32,
    "ordinal": pl.Int64,
    "op": pl.String,
    "column_name": pl.String,
    "reason": pl.String,
    "row": pl.String,
}
#: The reason of an update that leaves out a value of a row that is in quarantine.
UNSENT_VALUE = "the source left out its unchanged TOAST value, and the row that has it is not in the table"


def none() -> pl.DataFrame:
    """Return a frame without rows."""
    return pl.DataFrame(schema=ROWS)


def of_changes(batch: ChangeBatch, numbers: Indexes, columns: Indexes, *, reason: str | None = None) -> pl.DataFrame:
    """Return the quarantine's rows of changes.

    Args:
        batch: The batch.
        numbers: Numbers of the changes; all have a new image.
        columns: By change of the batch: the number of the column that the reason is about.
        reason: The reason; None: the column's value is a bad value.
    """
    schema = batch.schema
    images = batch.new.take(np.searchsorted(batch.new.index, numbers))
    texts = {name: images.texts(number) for number, name in enumerate(schema.names)}
    unsent = {name: mask for number, name in enumerate(schema.names) if (mask := images.unknown(number)) is not None}
    return pl.DataFrame(
        {
            "commit_lsn": batch.commit_lsn[numbers],
            "xid": batch.xid[numbers],
            "ordinal": batch.ordinal[numbers],
            "op": [OPERATION_NAMES[op] for op in batch.ops[numbers].tolist()],
            "column_name": [schema.names[column] for column in columns[numbers]],
            "reason": [reason or _bad_value(schema, column) for column in columns[numbers]],
            "row": _json_objects(texts, unsent),
        },
        schema=ROWS,
    )


def of_copy(schema: TableSchema, copied: CopiedRows, places: Indexes, columns: Indexes, lsn: Lsn) -> pl.DataFrame:
    """Return the quarantine's rows of copied rows.

    Args:
        schema: The table.
        copied: Its rows.
        places: Numbers of the rows that go to quarantine.
        columns: By copied row: the number of the column with the bad value.
        lsn: The position of the snapshot.
    """
    texts_by_name: dict[str, pl.Series] = {}
    for number, column in enumerate(schema.columns):
        texts = _source_texts(copied.frame[value_column(number)].gather(places))
        unreadable = copied.unreadable.get(number)
        texts_by_name[column.name] = (
            texts
            if unreadable is None
            else unreadable.gather(places).zip_with(unreadable.gather(places).is_not_null(), texts)
        )
    return pl.DataFrame(
        {
            "commit_lsn": np.full(len(places), int(lsn), dtype=np.uint64),
            "xid": np.zeros(len(places), dtype=np.uint32),
            "ordinal": np.zeros(len(places), dtype=np.int64),
            "op": ["snapshot"] * len(places),
            "column_name": [schema.names[column] for column in columns[places]],
            "reason": [_bad_value(schema, column) for column in columns[places]],
            "row": _json_objects(texts_by_name, {}),
        },
        schema=ROWS,
    )


def _bad_value(schema: TableSchema, number: int) -> str:
    column = schema.columns[number]
    return f"the value of {column.name} ({column.source_type}) cannot be held by {column.type}"


def _source_texts(values: pl.Series) -> pl.Series:
    """Return copied values as the texts that the source writes.

    The text of a number may differ from the source's text, but it denotes the same number.
    """
    listed = values.to_list()
    if values.dtype == pl.Boolean:
        listed = [None if value is None else "t" if value else "f" for value in listed]
    elif values.dtype == pl.Binary:
        listed = [None if value is None else f"\\x{value.hex()}" for value in listed]
    elif values.dtype.is_float():
        not_finite = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        listed = [None if value is None else not_finite.get(repr(value), repr(value)) for value in listed]
    elif values.dtype != pl.String:
        listed = [None if value is None else str(value) for value in listed]
    return pl.Series(values.name, listed, dtype=pl.String)


def _json_objects(texts: dict[str, pl.Series], unsent: dict[str, Mask]) -> list[str]:
    """Return rows as JSON objects of texts, without unsent values. Row by row, since rows in quarantine are few."""
    rows = pl.DataFrame([series.alias(name) for name, series in texts.items()]).rows(named=True)
    for name, mask in unsent.items():
        for place in np.flatnonzero(mask).tolist():
            del rows[place][name]
    return [json.dumps(row, ensure_ascii=False) for row in rows]
