"""Keep the trouble of one table from stopping the others.

An error that names its tables (`DbmazzError.tables`) concerns only these. Under `ON_TABLE_ERROR=isolate` such a table
keeps its rows of the last commit, and gets a state and a reason in the destination; the window goes on without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dbmazz_core.errors import (
    BadValue,
    DbmazzError,
    DestinationConflict,
    MissingPrivilege,
    ReplicaIdentityInsufficient,
    SlotCreationBlocked,
    SourceNotReady,
    TableLocked,
    UnknownValue,
)
from dbmazz_core.model.policies import SchemaChangeKind, TableErrorPolicy
from dbmazz_core.model.recorded import RecordedTable
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.sink import SinkTransaction
from dbmazz_core.model.source import SourceTable
from dbmazz_core.model.table_state import Problem, TableState, TableStatus
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import TableConfig
from dbmazz_core.table_ref import TableRef

#: Errors of statements on one table, which do not always name it.
_OF_STATEMENTS = (DestinationConflict, BadValue, UnknownValue, TableLocked, MissingPrivilege)
#: Why a removed table must be copied again when it comes back. A removed table without this reason has missed nothing.
CHANGES_MISSED = Problem("it has changed since it was taken out of TABLES")
#: `TableState.retry_when` of a table whose facts are not recorded yet.
UNRECORDED = ""


class LeftOut(Exception):
    """Tables leave the stream at the last commit; what was applied since must be applied again without them.

    Attributes:
        tables: The tables, each with the error, or with the event that asks for its re-snapshot.
    """

    def __init__(self, tables: Mapping[TableRef, DbmazzError | SchemaEvent]) -> None:
        super().__init__(", ".join(map(str, tables)))
        self.tables = dict(tables)


@dataclass(frozen=True, slots=True)
class Isolation:
    """Tells which errors concern single tables only.

    Attributes:
        policy: Whether an error of a table stops the run.
    """

    policy: ByTable[TableErrorPolicy] = field(default_factory=lambda: ByTable(TableErrorPolicy.STOP))

    def isolates(self, table: TableRef) -> bool:
        """Return whether an error of the table must not stop the others."""
        return self.policy.of(table) is TableErrorPolicy.ISOLATE

    def concerned(self, error: DbmazzError, table: TableRef | None = None) -> tuple[TableRef, ...]:
        """Return the tables whose trouble an error is; empty if it must stop the run.

        Args:
            error: The error.
            table: The table that was worked on, if the error came from there.
        """
        tables = error.tables
        if table is not None and (tables or isinstance(error, _OF_STATEMENTS)):
            tables = (table,)
        return tables if all(map(self.isolates, tables)) else ()

    def left_out(self, error: DbmazzError, table: TableRef | None = None) -> LeftOut | None:
        """Return what to raise instead of an error that concerns single tables only; None if it must stop the run."""
        tables = self.concerned(error, table)
        return LeftOut(dict.fromkeys(tables, error)) if tables else None


def mark_left_out(transaction: SinkTransaction, table: TableRef, why: DbmazzError | SchemaEvent) -> None:
    """Record in a transaction of the destination that a captured table has left the stream."""
    if isinstance(why, SchemaEvent):
        transaction.abandon(why)
    else:
        transaction.mark(table, TableStatus.FAILED, Problem.of(why), retry_when=retry_when(why))


def retry_when(error: DbmazzError) -> str | None:
    """Return the first `TableState.retry_when` for an error of a copy or a stream.

    Locks, privileges and open transactions go away without notice, and trying again costs little. All other errors come
    again until the table, the settings or the destination change.
    """
    is_cheap = isinstance(error, SourceNotReady | SlotCreationBlocked)
    return None if is_cheap and not isinstance(error, ReplicaIdentityInsufficient) else UNRECORDED


def facts(table: TableRef, source: SourceTable | None, recorded: RecordedTable | None, settings: TableConfig) -> str:
    """Return a digest of all that a table's retry depends on: its definition, the destination's table, its settings."""
    parts = [
        None if source is None else (source.token, source.schema),
        None if recorded is None or recorded.altered is None else recorded.altered.what,
        settings.mode.of(table),
        settings.on_bad_value.of(table),
        *(settings.schema_changes.of(table, kind) for kind in SchemaChangeKind),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def is_held(state: TableState, now: Callable[[], str]) -> bool:
    """Return whether a table waits for a person, or for a change of the facts that `now` returns."""
    return state.is_in_trouble and state.retry_when is not None and state.retry_when in (UNRECORDED, now())
