"""What can be chosen for tables: how they are kept, and what becomes of changes and values that do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """How a table is kept in the destination."""

    MIRROR = "mirror"  #: the source's columns and rows, nothing else
    SOFT_DELETE = "soft_delete"  #: deleted rows stay, marked
    CHANGELOG = "changelog"  #: every change is appended


class BadValuePolicy(StrEnum):
    """What becomes of a row with a value that the destination's type cannot hold."""

    ERROR = "error"  #: the flush stops, nothing of it is applied
    QUARANTINE = "quarantine"  #: the row goes to `_dbmazz.quarantine`, raw


class SchemaChangeKind(StrEnum):
    """Changes of a table's shape in the source."""

    ADD_COLUMN = "add_column"
    DROP_COLUMN = "drop_column"
    RENAME_COLUMN = "rename_column"
    CHANGE_TYPE = "change_type"
    RENAME_TABLE = "rename_table"


class SchemaAction(StrEnum):
    """What is done about one."""

    APPLY = "apply"  #: the destination changes alike, in place or by copying the table anew
    IGNORE = "ignore"  #: the destination keeps its shape
    STOP = "stop"  #: the run stops with the command to run


class NumericForm(StrEnum):
    """What `numeric` without precision, or with more than DuckDB's 38 digits, becomes."""

    TEXT = "text"  #: its text, lossless
    DOUBLE = "double"  #: DOUBLE, rounded to 15 to 17 digits


@dataclass(frozen=True, slots=True)
class Mask:
    """What a column's values become before they reach the destination.

    Attributes:
        kind: `hash` (SHA-256 of the text, in hexadecimal, keyed by `MASK_KEY`), `null`, or `truncate`.
        length: Characters that `truncate` leaves.
    """

    kind: str
    length: int = 0

    def __str__(self) -> str:
        return f"truncate:{self.length}" if self.kind == "truncate" else self.kind
