"""Change batches: many row changes of one table as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from dbmazz_core.errors import BadValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.bad_value import bad_value
from dbmazz_core.model.natural_dtypes import to_natural
from dbmazz_core.model.records import CdcRecord, Columns, ColumnValue, Delete, Insert, SourcePosition, Update
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.unchanged import UNCHANGED
from dbmazz_core.model.values import carried_value
from dbmazz_core.table_ref import TableRef

INSERT, UPDATE, DELETE = ord("I"), ord("U"), ord("D")
OPERATION_NAMES = {INSERT: "insert", UPDATE: "update", DELETE: "delete"}

Indexes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class UnreadableText(Exception):
    """Raised by `RowImages.values`: a text is no value of its column's type."""

    def __init__(self, column: int, place: int, text: str) -> None:
        super().__init__(column, place, text)
        self.column = column
        self.place = place
        self.text = text


class RowImages(Protocol):
    """The new, or the old, images of some rows of a batch; values are made when asked for."""

    @property
    def index(self) -> Indexes:
        """Which rows of the batch have this image, ascending, shape (k,)."""

    def values(self, column: int) -> pl.Series:
        """Values of a column in its carrier dtype.

        Unknown values are null here; `unknown` tells them from NULL. Raises UnreadableText, or, where bad values are
        kept apart (`ON_BAD_VALUE=quarantine`), is null there and `unreadable` tells.
        """

    def take(self, places: Indexes) -> RowImages:
        """Only the images at these places (not rows), in this order."""

    def unknown(self, column: int) -> Mask | None:
        """True where the value was not sent, shape (k,); None where all were."""

    @property
    def lenient(self) -> bool:
        """Whether bad values are kept apart."""

    def unreadable(self, column: int) -> Mask | None:
        """True where the text is no value of the column's type, shape (k,); None where all are."""

    def texts(self, column: int) -> pl.Series:
        """PostgreSQL's texts of a column, String, masked as the values are; null for NULL and what was not sent.

        Only where bad values are kept apart. Bytes that are not UTF-8 are written `\\xff`.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ChangeBatch:
    """Row changes of one table under one schema, in stream order: the columnar form of `CdcRecord`s.

    Attributes:
        schema: The table as the source described it ahead of these changes.
        ops: `ord("I")`, `ord("U")` or `ord("D")` of each change, uint8, shape (n,).
        commit_lsn: Commit LSN of each change's transaction, uint64, shape (n,).
        xid: Transaction id, uint32, shape (n,).
        ordinal: Place of the change in its transaction, counted from 1, int64, shape (n,).
        commit_time: Microseconds since 2000-01-01 UTC, int64, shape (n,).
        new: New images: of all inserts and updates.
        old: Old images: of deletes, and of updates that came with one.
        old_is_key: True where the old image holds key columns only, shape of `old.index`.
    """

    schema: TableSchema
    ops: npt.NDArray[np.uint8]
    commit_lsn: npt.NDArray[np.uint64]
    xid: npt.NDArray[np.uint32]
    ordinal: Indexes
    commit_time: Indexes
    new: RowImages
    old: RowImages
    old_is_key: Mask

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def table(self) -> TableRef:
        """The table."""
        return self.schema.table

    def count(self, op: int) -> int:
        """How many changes are `INSERT`, `UPDATE` or `DELETE`."""
        return int(np.count_nonzero(self.ops == op))

    def values(self, images: RowImages, column: int) -> pl.Series:
        """A column of `new` or `old` in its carrier dtype.

        Raises:
            BadValue: If some text is no such value; it names table, column, LSN and transaction.
        """
        try:
            return images.values(column)
        except UnreadableText as error:
            raise self.unreadable(images, error) from None

    def unreadable(self, images: RowImages, error: UnreadableText) -> BadValue:
        """The error for a text that is no value of its column's type."""
        change = int(images.index[error.place])

        def value(column: int) -> object:
            try:
                return images.values(column)[error.place]
            except UnreadableText:  # the value that the error is about, or one beside it: that names no row
                return None

        lsn, xid = Lsn(int(self.commit_lsn[change])), int(self.xid[change])
        return bad_value(self.schema, error.column, error.text, lsn, xid, row=value)

    def frame(self) -> pl.DataFrame:
        """All changes as one polars frame, one row a change, in stream order.

        Columns: `op` (String: insert, update, delete), `commit_lsn` (UInt64), `xid` (UInt32), `ordinal` (Int64),
        `commit_time` (Datetime us UTC), `new` and `old` (Struct of the table's columns in their carrier dtypes; null
        where the change has no such image), `unchanged` (List of String: columns whose new value was not sent).
        """
        count = len(self)
        parts: dict[str, pl.Series] = {
            "op": pl.Series(self.ops).replace_strict(OPERATION_NAMES, return_dtype=pl.String),
            "commit_lsn": pl.Series(self.commit_lsn),
            "xid": pl.Series(self.xid),
            "ordinal": pl.Series(self.ordinal),
            "commit_time": commit_times(self.commit_time),
        }
        for name, images in (("new", self.new), ("old", self.old)):
            struct = pl.DataFrame(
                [self.values(images, number).alias(column.name) for number, column in enumerate(self.schema.columns)]
            ).to_struct(name)
            place = pl.repeat(None, count, dtype=pl.UInt32, eager=True)
            parts[name] = struct.gather(place.scatter(images.index, np.arange(len(images.index), dtype=np.uint32)))
        parts["unchanged"] = self._unchanged_names()
        return pl.DataFrame([series.alias(name) for name, series in parts.items()])

    def typed(self) -> pl.DataFrame:
        """The new images with polars' natural dtypes (`Datetime`, `Decimal`), of inserts and updates, in order.

        Raises:
            BadValue: If a value has no place in polars' dtype: infinite and far-away dates, `24:00:00`, NaN decimals.
        """
        columns = []
        for number, column in enumerate(self.schema.columns):
            values = self.values(self.new, number)
            cast, lost = to_natural(values, column.type)
            if lost is not None:
                raise self.unreadable(self.new, UnreadableText(number, lost, str(values[lost])))
            columns.append(cast.alias(column.name))
        return pl.DataFrame(columns)

    def records(self) -> Iterator[CdcRecord]:
        """The changes one by one, in order, as `Insert`, `Update` and `Delete`."""
        new, old = self._columns_by_row(self.new), self._columns_by_row(self.old)
        keys = set(self.schema.key)
        key_only = iter(self.old_is_key.tolist())
        has_old = set(self.old.index.tolist())
        for row, op in enumerate(self.ops.tolist()):
            position = SourcePosition(
                Lsn(int(self.commit_lsn[row])),
                int(self.ordinal[row]),
                int(self.xid[row]),
                _POSTGRES_EPOCH + timedelta(microseconds=int(self.commit_time[row])),
            )
            before: Columns | None = None
            if row in has_old:
                before = next(old)
                if next(key_only):
                    before = {name: value for name, value in before.items() if name in keys}
            if op == INSERT:
                yield Insert(self.table, next(new), position)
            elif op == DELETE:
                yield Delete(self.table, before or {}, position)
            else:
                yield Update(self.table, before, next(new), position)

    def _columns_by_row(self, images: RowImages) -> Iterator[Columns]:
        names = self.schema.names
        columns: list[list[ColumnValue]] = []
        for number, column in enumerate(self.schema.columns):
            values = self.values(images, number)
            listed = values.to_list()
            if column.type.is_nested or column.type.carrier == pl.String:
                listed = [carried_value(value, column.type) for value in listed]
            unknown = images.unknown(number)
            if unknown is not None:
                listed = [UNCHANGED if u else v for v, u in zip(listed, unknown.tolist(), strict=True)]
            columns.append(listed)
        for row in zip(*columns, strict=True):
            yield dict(zip(names, row, strict=True))

    def _unchanged_names(self) -> pl.Series:
        names: list[list[str]] = [[] for _ in range(len(self))]
        for number, column in enumerate(self.schema.columns):
            mask = self.new.unknown(number)
            if mask is not None:
                for row in self.new.index[mask].tolist():
                    names[row].append(column.name)
        return pl.Series(names, dtype=pl.List(pl.String))


_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_OFFSET_US = int(_POSTGRES_EPOCH.timestamp()) * 1_000_000


def commit_times(microseconds: Indexes) -> pl.Series:
    """Commit times as PostgreSQL counts them, from 2000-01-01 UTC, as Datetime."""
    return pl.Series(microseconds + _EPOCH_OFFSET_US).cast(pl.Datetime("us", "UTC"))
