"""Change batches: many row changes of one table as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from dbmazz_core.bad_value import bad_value
from dbmazz_core.datatypes import DataType
from dbmazz_core.errors import BadValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.records import CdcRecord
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import TableRef

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
            cast, lost = _to_natural(values, column.type)
            if lost is not None:
                raise self.unreadable(self.new, UnreadableText(number, lost, str(values[lost])))
            columns.append(cast.alias(column.name))
        return pl.DataFrame(columns)

    def records(self) -> Iterator[CdcRecord]:
        """The changes one by one, in order, as `Insert`, `Update` and `Delete`."""
        from dbmazz_core.batch_records import records

        return records(self)

    def _unchanged_names(self) -> pl.Series:
        names: list[list[str]] = [[] for _ in range(len(self))]
        for number, column in enumerate(self.schema.columns):
            mask = self.new.unknown(number)
            if mask is not None:
                for row in self.new.index[mask].tolist():
                    names[row].append(column.name)
        return pl.Series(names, dtype=pl.List(pl.String))


#: Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
_EPOCH_OFFSET_US = 946_684_800_000_000


def commit_times(microseconds: Indexes) -> pl.Series:
    """Commit times as PostgreSQL counts them, from 2000-01-01 UTC, as Datetime."""
    return pl.Series(microseconds + _EPOCH_OFFSET_US).cast(pl.Datetime("us", "UTC"))


def _to_natural(values: pl.Series, type: DataType) -> tuple[pl.Series, int | None]:
    """Carriers in the natural dtype, and the place of the first that has none, None if all have."""
    if type.carrier == type.natural:
        return values, None
    cast = pl.select(_in_lists(pl.lit(values), type.depth, type.leaf.natural)).to_series()
    flat = pl.DataFrame({"place": pl.arange(len(values), eager=True), "text": values, "value": cast})
    for _ in range(type.depth):
        flat = flat.explode("text", "value")
    lost = flat.filter(pl.col("value").is_null() & pl.col("text").is_not_null())["place"]
    return cast, int(lost[0]) if len(lost) else None


def _in_lists(values: pl.Expr, depth: int, dtype: pl.DataType) -> pl.Expr:
    return values.list.eval(_in_lists(pl.element(), depth - 1, dtype)) if depth else _natural(values, dtype)


def _natural(values: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        # A time zone in the text makes it UTC; without one it stays naive.
        form = "%Y-%m-%d %H:%M:%S%.f%#z" if dtype.time_zone else "%Y-%m-%d %H:%M:%S%.f"
        return values.str.to_datetime(form, time_unit="us", time_zone=dtype.time_zone, strict=False)
    if dtype == pl.Date:
        return values.str.to_date("%Y-%m-%d", strict=False)
    if dtype == pl.Time:
        return values.str.to_time("%H:%M:%S%.f", strict=False)
    return values.cast(dtype, strict=False)
