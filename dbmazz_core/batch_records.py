"""From columns to records: a change batch's rows as `CdcRecord`s."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl

from dbmazz_core.batch import DELETE, INSERT, ChangeBatch, RowImages
from dbmazz_core.lsn import Lsn
from dbmazz_core.records import CdcRecord, Columns, ColumnValue, Delete, Insert, SourcePosition, Update
from dbmazz_core.unchanged import UNCHANGED
from dbmazz_core.values import carried_value

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def records(batch: ChangeBatch) -> Iterator[CdcRecord]:
    """The changes of a batch one by one, in order."""
    new, old = _images(batch, batch.new), _images(batch, batch.old)
    keys = set(batch.schema.key)
    key_only = iter(batch.old_is_key.tolist())
    has_old = set(batch.old.index.tolist())
    for row, op in enumerate(batch.ops.tolist()):
        position = SourcePosition(
            Lsn(int(batch.commit_lsn[row])),
            int(batch.ordinal[row]),
            int(batch.xid[row]),
            _POSTGRES_EPOCH + timedelta(microseconds=int(batch.commit_time[row])),
        )
        before: Columns | None = None
        if row in has_old:
            before = next(old)
            if next(key_only):
                before = {name: value for name, value in before.items() if name in keys}
        if op == INSERT:
            yield Insert(batch.table, next(new), position)
        elif op == DELETE:
            yield Delete(batch.table, before or {}, position)
        else:
            yield Update(batch.table, before, next(new), position)


def _images(batch: ChangeBatch, images: RowImages) -> Iterator[Columns]:
    names = batch.schema.names
    columns: list[list[ColumnValue]] = []
    for number, column in enumerate(batch.schema.columns):
        values = batch.values(images, number)
        listed = values.to_list()
        if column.type.is_nested or column.type.carrier == pl.String:
            listed = [carried_value(value, column.type) for value in listed]
        unknown = images.unknown(number)
        if unknown is not None:
            listed = [UNCHANGED if u else v for v, u in zip(listed, unknown.tolist(), strict=True)]
        columns.append(listed)
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))
