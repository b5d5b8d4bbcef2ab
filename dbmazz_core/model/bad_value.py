"""The error for a value that its column's type cannot hold: which, of which row, and what to do."""

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
from dbmazz_core.table_ref import quote_literal, quoted_if_needed

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
    """The error for a value that its column's type cannot hold.

    Args:
        schema: Its table.
        column: Its column, by place.
        text: The value as PostgreSQL writes it.
        lsn: Commit LSN of its transaction.
        xid: The transaction; 0 where it came in none.
        row: The row's value of another column, by place; None where it is not known.
        copied: Whether the table was being copied.
    """
    definition = schema.columns[column]
    shown = HIDDEN if definition.mask else _shortened(text)
    where = f" of the transaction {xid} committed at {lsn}" if xid else ""
    return BadValue(
        f"{schema.table}, column {definition.name} ({definition.source_type}){_of_row(schema, column, row)}: the value "
        f"{shown!r}{where} cannot be held by {definition.type}; nothing of this "
        f"{'table was copied' if copied else 'flush was applied'}",
        object=f"{schema.table}.{definition.name}",
        remedy=f"change the value in PostgreSQL and copy the table anew: dbmazz snapshot --tables '{schema.table}'; or "
        f"have such rows kept apart: ON_BAD_VALUE='{schema.table}=quarantine'; or keep the column as PostgreSQL's "
        f"text: COLUMNS_AS_TEXT='{schema.table}.{quoted_if_needed(definition.name)}', and copy the table anew",
    )


def _of_row(schema: TableSchema, bad: int, value: Callable[[int], object]) -> str:
    """The row by its key, as a condition for PostgreSQL; what is masked is not told.

    Values that are long or nested are only shown: PostgreSQL does not read them.
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
