"""Change batches: row changes of one table, as columns."""

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
    """Raised by `RowImages.values`: a text is no value of its column's type.

    Attributes:
        column: Number of the column.
        place: Place of the image.
        text: The text.
    """

    def __init__(self, column: int, place: int, text: str) -> None:
        super().__init__(column, place, text)
        self.column = column
        self.place = place
        self.text = text


class RowImages(Protocol):
    """The new images, or the old images, of changes of a batch. Values are decoded on request."""

    @property
    def index(self) -> Indexes:
        """The numbers of the changes that have such an image, ascending, shape (k,)."""

    def values(self, column: int) -> pl.Series:
        """Return the values of a column in its carrier dtype, or its natural one (`ChangeBatch.is_typed`).

        Unknown values are null; `unknown` distinguishes them from NULL.

        Raises:
            TextNeeded: The natural dtype cannot hold a value.
            UnreadableText: A text is no value of the column's type, and `keep_unreadable` is false. If it is true, the
                value is null, and `unreadable` tells where.
        """

    def take(self, places: Indexes) -> RowImages:
        """Return only the images at these places (not rows), in this order."""

    def unknown(self, column: int) -> Mask | None:
        """Return whether a value was not sent, shape (k,); None if all values were sent."""

    @property
    def keep_unreadable(self) -> bool:
        """Whether unreadable texts are kept (`ON_BAD_VALUE=quarantine`) instead of raising UnreadableText."""

    def unreadable(self, column: int) -> Mask | None:
        """Return whether a text is no value of the column's type, shape (k,); None if all are values."""

    def texts(self, column: int) -> pl.Series:
        """Return PostgreSQL's texts of a column (String), masked like the values; null for NULL and unsent values.

        Only if `keep_unreadable`. Bytes that are not UTF-8 are written as `\\xff`.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ChangeBatch:
    """Row changes of one table under one schema, in stream order: the columnar form of `CdcRecord`s.

    Attributes:
        schema: The table as the source described it before these changes.
        ops: `ord("I")`, `ord("U")` or `ord("D")` of each change, uint8, shape (n,).
        commit_lsn: Commit LSN of the transaction of each change, uint64, shape (n,).
        xid: Transaction id, uint32, shape (n,).
        ordinal: Number of the change in its transaction, from 1, int64, shape (n,).
        commit_time: Commit time in microseconds since 2000-01-01 UTC, int64, shape (n,).
        new: The new images of inserts and updates.
        old: The old images of deletes, and of updates that came with an old image.
        old_is_key: Whether an old image has only the key columns, shape of `old.index`.
        is_typed: Whether values are in natural dtypes, as the source sent them; all batches of a stream are alike.
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
    is_typed: bool = False

    def dtype(self, column: int) -> pl.DataType:
        """Return the dtype of a column's values."""
        type = self.schema.columns[column].type
        return type.natural if self.is_typed else type.carrier

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def table(self) -> TableRef:
        """The table."""
        return self.schema.table

    def count(self, op: int) -> int:
        """Return the number of changes with an operation: `INSERT`, `UPDATE` or `DELETE`."""
        return int(np.count_nonzero(self.ops == op))

    def values(self, images: RowImages, column: int) -> pl.Series:
        """Return a column of `new` or `old` in its carrier dtype.

        Raises:
            BadValue: A text is no value of the column's type. The error names table, column, LSN and transaction.
        """
        try:
            return images.values(column)
        except UnreadableText as error:
            raise self.unreadable(images, error) from None

    def unreadable(self, images: RowImages, error: UnreadableText) -> BadValue:
        """Return the error for a text that is no value of its column's type."""
        change = int(images.index[error.place])

        def value(column: int) -> object:
            try:
                return images.values(column)[error.place]
            except UnreadableText:  # of this value, or of another value of the row, which then cannot identify the row
                return None

        lsn, xid = Lsn(int(self.commit_lsn[change])), int(self.xid[change])
        return bad_value(self.schema, error.column, error.text, lsn, xid, row=value)

    def frame(self) -> pl.DataFrame:
        """Return all changes as one polars frame, one row per change, in stream order.

        Returns:
            Columns `op` (String: insert, update, delete), `commit_lsn` (UInt64), `xid` (UInt32), `ordinal` (Int64),
            `commit_time` (Datetime us UTC), `new` and `old` (Struct of the table's columns in their carrier dtypes;
            null if the change has no such image), `unchanged` (List of String: columns whose new value was not sent).

        Raises:
            BadValue: A text is no value of its column's type.
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
        """Return the new images of inserts and updates, in order, with natural dtypes (`Datetime`, `Decimal`).

        Raises:
            BadValue: A value does not fit the natural dtype: infinite or very distant dates, `24:00:00`, NaN decimals.
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
        """Yield the changes one by one, in order, as `Insert`, `Update` and `Delete`."""
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
    """Return commit times as Datetime.

    Args:
        microseconds: Microseconds since 2000-01-01 UTC, the epoch of PostgreSQL.
    """
    return pl.Series(microseconds + _EPOCH_OFFSET_US).cast(pl.Datetime("us", "UTC"))
