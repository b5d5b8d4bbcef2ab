"""Build the error for a bad value: it names the value, the row and what to do."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import polars as pl

from dbmazz_core.errors import BadValue
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.datatypes import DataType
from dbmazz_core.model.masks import HIDDEN
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.values import escaped
from dbmazz_core.table_ref import ColumnRef, quote_literal, quoted_if_needed

_LONGEST = 80


def bad_value(
    schema: TableSchema,
    column: int,
    text: str,
    lsn: Lsn = INVALID_LSN,
    xid: int = 0,
    *,
    row: Callable[[int], object],
    copied: bool = False,
) -> BadValue:
    """Return the error for a value that its column's type cannot hold.

    Args:
        schema: The table.
        column: Place of the column.
        text: The value as PostgreSQL writes it.
        lsn: Commit LSN of the transaction.
        xid: The transaction; 0 if the value did not come in a transaction of the stream.
        row: Returns the row's value of a column, by its place; None if it is not known.
        copied: Whether the table was being copied.
    """
    definition = schema.columns[column]
    shown = HIDDEN if definition.mask else _shortened(text)
    where = f" of the transaction {xid} committed at {lsn}" if xid else ""
    return BadValue(
        f"{schema.table}, column {definition.name} ({definition.source_type}){_of_row(schema, column, row)}: the value "
        f"{shown!r}{where} cannot be held by {definition.type}; nothing of this "
        f"{'table was copied' if copied else 'flush was applied to the table'}",
        object=ColumnRef(schema.table, definition.name),
        remedy=f"change the value in PostgreSQL and re-snapshot the table: dbmazz snapshot --tables '{schema.table}'; "
        f"or keep such rows apart: ON_BAD_VALUE='{schema.table}=quarantine'; or keep the column as PostgreSQL's "
        f"text: COLUMNS_AS_TEXT='{schema.table}.{quoted_if_needed(definition.name)}', and re-snapshot the table",
    )


def _of_row(schema: TableSchema, bad: int, value: Callable[[int], object]) -> str:
    """Return the row's key as an SQL condition; masked columns are left out.

    PostgreSQL accepts the condition unless a value is long (it is shortened) or nested.
    """
    numbers = [n for n, c in enumerate(schema.columns) if c.name in schema.key and n != bad and not c.mask]
    known = [(schema.columns[number], value(number)) for number in numbers]
    conditions = [f"{quoted_if_needed(c.name)} = {_literal(key, c.type)}" for c, key in known if key is not None]
    return f" of the row {' AND '.join(conditions)}" if conditions else ""


def _literal(value: object, type: DataType) -> str:
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bytes):
        # Texts are bytes too where PostgreSQL does not know their encoding.
        value = f"\\x{value.hex()}" if type.carrier == pl.Binary else escaped(value)
    return quote_literal(_shortened(str(value)))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
