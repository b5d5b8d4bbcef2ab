"""Choices for tables: the mode, and the policies for schema changes and bad values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """How a table is kept in the destination."""

    MIRROR = "mirror"  #: the source's columns and rows, nothing else
    SOFT_DELETE = "soft_delete"  #: deleted rows stay, marked
    CHANGELOG = "changelog"  #: every change is appended


class BadValuePolicy(StrEnum):
    """The policy for a row with a value that the destination's type cannot hold."""

    ERROR = "error"  #: the window stops; nothing of the flush is applied
    QUARANTINE = "quarantine"  #: the row goes to `_dbmazz.quarantine`, as text


class TableErrorPolicy(StrEnum):
    """The policy for an error that concerns one table, such as a missing privilege or a bad value."""

    ISOLATE = "isolate"  #: the table keeps its rows of the last commit and is marked; the others go on
    STOP = "stop"  #: the run stops; nothing of the flush is applied


class LockedPolicy(StrEnum):
    """What a window does that cannot open the destination because others use it, once it has waited."""

    FAIL = "fail"  #: the window fails
    SKIP = "skip"  #: the window ends; the next one applies the changes


class SchemaChangeKind(StrEnum):
    """Kinds of schema changes of a table in the source."""

    ADD_COLUMN = "add_column"
    DROP_COLUMN = "drop_column"
    RENAME_COLUMN = "rename_column"
    CHANGE_TYPE = "change_type"
    RENAME_TABLE = "rename_table"


class SchemaAction(StrEnum):
    """The action for a schema change."""

    APPLY = "apply"  #: the destination follows, in place or by a re-snapshot
    IGNORE = "ignore"  #: the destination keeps its shape
    STOP = "stop"  #: the run stops with an error that gives the command to run


class NumericForm(StrEnum):
    """The type for `numeric` without a precision, or with more than the 38 digits of DuckDB."""

    TEXT = "text"  #: text, exact
    DOUBLE = "double"  #: DOUBLE, rounded to 15 to 17 digits


@dataclass(frozen=True, slots=True)
class Mask:
    """How the values of a column are replaced before they reach the destination.

    Attributes:
        kind: `hash` (SHA-256 of the text, in hexadecimal, keyed by `MASK_KEY`), `null`, or `truncate`.
        length: Number of characters that `truncate` keeps.
    """

    kind: str
    length: int = 0

    def __str__(self) -> str:
        return f"truncate:{self.length}" if self.kind == "truncate" else self.kind
