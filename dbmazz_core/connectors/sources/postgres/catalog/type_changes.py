"""Changes of a column's type that need no re-snapshot, because PostgreSQL rewrote no value."""

from __future__ import annotations

import re

from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.schema import ColumnDef

#: Types whose values have the same text and the same storage.
_SAME_TEXT_TYPES = ({"text", "character varying", "citext"}, {"bit", "bit varying"})
#: The parts of a type that are not its name: modifiers, fields of intervals, brackets of arrays, and the schema of an
#: extension, which can be in any schema.
_NOT_THE_NAME = re.compile(r"\([\d,-]+\)|(?<=^interval) .*|\[\]|^\w+\.(?=citext\b)")


def converts_in_destination(old: DataType, new: DataType) -> bool:
    """Return whether a cast in the destination gives the source's values, if the source rewrote no value."""
    match old.kind, new.kind:
        case Kind.DECIMAL, Kind.DECIMAL:
            return old.scale == new.scale
        case Kind.DECIMAL, Kind.STRING:
            return old.precision != old.scale  # DuckDB writes .50 if precision and scale are equal
        case (Kind.TIMESTAMP, Kind.TIMESTAMPTZ) | (Kind.TIMESTAMPTZ, Kind.TIMESTAMP):
            return True
        case _:
            return False


def has_same_text(old: ColumnDef, new: ColumnDef) -> bool:
    """Return whether a column that the destination keeps as text, masked or not, has equal text under both types."""
    if new.type.leaf.kind is not Kind.STRING:
        return True
    before, after = (_NOT_THE_NAME.sub("", column.source_type) for column in (old, new))
    return before == after or any({before, after} <= types for types in _SAME_TEXT_TYPES)
