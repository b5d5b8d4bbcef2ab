"""All errors that dbmazz raises deliberately, as one tree.

Every error says what happened, to which object, and what to do about it: exact SQL or an exact command where there is
one. The number is the exit code of the `dbmazz` command; a class without a number has the exit code of its branch.

    DbmazzError
    ├── LimitReached                  1  a limit of the process: open files, memory, threads
    ├── ConfigError                   2  a setting is missing, unknown or malformed
    ├── SourceError
    │   ├── ConnectionFailed          3  server unreachable, unknown host, TLS refused
    │   │   └── AuthenticationFailed  3  wrong password, unknown role or database, no pg_hba.conf entry
    │   ├── ReplicationInterrupted    3  the stream broke; the next run resumes at the checkpoint
    │   ├── ServerChanged             3  the connections of one run reached two servers
    │   ├── SourceNotReady            4  the server, a privilege or a table must be changed first
    │   │   ├── UnsupportedServerVersion
    │   │   ├── WalLevelNotLogical
    │   │   ├── NoFreeSlot
    │   │   ├── NoFreeWalSender
    │   │   ├── MissingPrivilege
    │   │   ├── TableNotFound
    │   │   ├── TableNotSupported
    │   │   ├── TableLocked
    │   │   ├── ReplicaIdentityInsufficient
    │   │   ├── PublicationNotFound
    │   │   └── PublicationLacksTable
    │   └── SlotError                 5  replication slot and checkpoint do not match
    │       ├── SlotNotFound
    │       ├── SlotActive
    │       ├── SlotMismatch
    │       ├── SlotServesOther
    │       ├── SlotLost
    │       ├── SlotAheadOfCheckpoint
    │       ├── SlotCreationBlocked
    │       ├── ServerBehindCheckpoint
    │       ├── HistoryDiverged
    │       └── WrongServer
    ├── DestinationError              6  the destination cannot be opened or written
    │   ├── DestinationLocked
    │   ├── DestinationChanged
    │   ├── DestinationConflict
    │   ├── DestinationDamaged
    │   ├── DestinationOutOfMemory
    │   ├── TableNotStreaming
    │   └── DiskFull
    └── DataError                     7  data from PostgreSQL cannot be read or represented
        ├── ParseError
        ├── MalformedCopy
        ├── BadValue
        ├── UnknownValue
        └── SchemaChanged
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from dbmazz_core.lsn import Lsn
from dbmazz_core.table_ref import ColumnRef, TableRef


class DbmazzError(Exception):
    """Base of all errors of dbmazz.

    >>> error = SlotNotFound("slot shop does not exist", object="slot shop", remedy="run dbmazz snapshot")
    >>> print(error)
    slot shop does not exist
      what to do: run dbmazz snapshot
    >>> error.exit_code
    5

    Attributes:
        what: What happened, in one sentence.
        object: The table, slot, publication, variable or file that the error is about.
        tables: The tables whose trouble this is, so that the others can go on; empty if it concerns all of them.
        remedy: What to do: SQL or a command to paste where there is one.
        exit_code: Exit code of the `dbmazz` command.
        is_transient: Whether another attempt may succeed although nobody changes a setting or a table.
    """

    exit_code: ClassVar[int] = 1
    is_transient: ClassVar[bool] = False

    def __init__(
        self, what: str, *, object: str | TableRef | ColumnRef, remedy: str, tables: Iterable[TableRef] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.object = str(object)
        self.remedy = remedy
        self.tables = tuple(tables)
        if isinstance(object, TableRef | ColumnRef) and not self.tables:
            self.tables = (object if isinstance(object, TableRef) else object.table,)

    def __str__(self) -> str:
        return f"{self.what}\n  what to do: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (type(self), self.what, {**self.__dict__}))

    def to_dict(self) -> dict[str, str | int]:
        """Return the error as `--json` prints it: keys `error`, `what`, `object`, `remedy`, `exit_code`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "object": self.object,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


def _restored(kind: type[DbmazzError], what: str, attributes: dict[str, object]) -> DbmazzError:
    """Return an unpickled error. Errors cross processes, and the constructors of their classes differ."""
    error = kind.__new__(kind, what)
    error.__dict__.update(attributes)
    return error


class LimitReached(DbmazzError):
    """A limit that the system sets for the process is reached: open files, memory, or threads.

    What to do: raise the limit that the error names (`ulimit`, the service unit, or the container).
    """


class ConfigError(DbmazzError):
    """A setting is missing, unknown or malformed. `object` is the name of its variable, flag or key.

    What to do: correct the variable, the flag or the key of the file that the error names.
    """

    exit_code = 2


class SourceError(DbmazzError):
    """PostgreSQL reported an error that no other class describes. Base of all errors of the source.

    What to do: read PostgreSQL's log, then run the command again.
    """

    exit_code = 3


class ConnectionFailed(SourceError):
    """PostgreSQL cannot be reached: unknown host, refused connection, or TLS failure.

    What to do: check host and port in `SOURCE_URL`, and that PostgreSQL runs there.
    """

    is_transient = True


class AuthenticationFailed(ConnectionFailed):
    """PostgreSQL refused the role, the password, the database or the client's address.

    What to do: correct user, password and database in `SOURCE_URL`, or run `ALTER ROLE ... PASSWORD`.
    """

    is_transient = False


class ReplicationInterrupted(SourceError):
    """The replication stream broke. No change is lost.

    What to do: run the command again; it resumes at the checkpoint.
    """

    is_transient = True


class ServerChanged(SourceError):
    """The connections of one run reached different servers, or the server was restarted or promoted between them.

    What to do: run the command again; if the error repeats, put the host and the port of one server into
    `SOURCE_URL`.
    """

    is_transient = True


class SourceNotReady(SourceError):
    """The server, a privilege or a table must be changed before changes can be captured.

    What to do: run the statement in the error.
    """

    exit_code = 4


class UnsupportedServerVersion(SourceNotReady):
    """The server is older than PostgreSQL 14.

    What to do: upgrade PostgreSQL.
    """


class WalLevelNotLogical(SourceNotReady):
    """`wal_level` is not `logical`.

    What to do: run `ALTER SYSTEM SET wal_level = 'logical';` and restart PostgreSQL.
    """


class NoFreeSlot(SourceNotReady):
    """All replication slots that `max_replication_slots` allows exist already.

    What to do: drop a slot that is not needed, or raise `max_replication_slots`.
    """


class NoFreeWalSender(SourceNotReady):
    """All connections that `max_wal_senders`, or another limit on connections, allows are in use.

    What to do: end another consumer, or raise `max_wal_senders`.
    """


class MissingPrivilege(SourceNotReady):
    """The role lacks a privilege.

    What to do: run the `GRANT` or `ALTER ROLE` in the error; `dbmazz check` lists all that are missing.
    """


class TableNotFound(SourceNotReady):
    """A table that `TABLES` names does not exist.

    What to do: correct `TABLES`; the error lists the nearest names that exist.
    """


class TableNotSupported(SourceNotReady):
    """The relation writes no logical changes: a view, a sequence, or a foreign, temporary or unlogged table, or one
    without columns.

    What to do: remove it from `TABLES`.
    """


class TableLocked(SourceNotReady):
    """Another transaction has held a lock that conflicts with every reader of a table for a minute.

    What to do: wait for the transaction that the error names, or end it.
    """

    is_transient = True


class ReplicaIdentityInsufficient(SourceNotReady):
    """Updates and deletes of a table would carry no columns that identify the row.

    What to do: run `ALTER TABLE ... REPLICA IDENTITY FULL;`, or add a primary key.
    """


class PublicationNotFound(SourceNotReady):
    """The publication does not exist, or did not exist when a change in the slot was written.

    What to do: run `dbmazz snapshot`: changes made meanwhile were not published.
    """


class PublicationLacksTable(SourceNotReady):
    """The publication lacks a captured table, or an operation on it.

    What to do: run the `ALTER PUBLICATION` in the error, and `dbmazz snapshot` if changes were missed.
    """


class SlotError(SourceError):
    """Replication slot and checkpoint do not match.

    What to do: run `dbmazz snapshot`.
    """

    exit_code = 5


class SlotNotFound(SlotError):
    """The replication slot that the checkpoint belongs to does not exist.

    What to do: run `dbmazz snapshot`, which creates the slot and re-snapshots the tables.
    """


class SlotActive(SlotError):
    """Another process is consuming the replication slot; the error names its pid and application.

    What to do: wait, stop the process that the error names, or give this pipeline its own `SOURCE_SLOT_NAME`.
    """

    is_transient = True


class SlotMismatch(SlotError):
    """A slot of this name exists, but it is a physical slot, was made with `two_phase`, or belongs to another database
    or output plugin.

    What to do: choose another `SOURCE_SLOT_NAME`, or drop the slot.
    """


class SlotServesOther(SlotError):
    """The slot serves another destination, which would lose changes if this one moved the slot on.

    What to do: choose the file that the error names, another `SOURCE_SLOT_NAME`, or run `dbmazz snapshot --take-over`.
    """


class SlotLost(SlotError):
    """The server invalidated the slot: `max_slot_wal_keep_size`, `idle_replication_slot_timeout`, or on a standby
    missing `hot_standby_feedback`.

    What to do: change the setting that the error names, then run `dbmazz snapshot`.
    """


class SlotAheadOfCheckpoint(SlotError):
    """The slot was confirmed beyond the checkpoint: PostgreSQL does not send the changes in between again.

    What to do: run `dbmazz snapshot`, and find out which other process used the slot.
    """


class SlotCreationBlocked(SlotError):
    """The creation of a slot waits for a transaction that is still open; the error names its pid and age.

    What to do: wait for the transaction that the error names, or end it.
    """

    is_transient = True


class ServerBehindCheckpoint(SlotError):
    """The server's history does not reach the checkpoint: the server was restored from a backup, or a standby was
    promoted too early.

    What to do: re-snapshot all tables: `dbmazz snapshot`.
    """


class HistoryDiverged(SlotError):
    """The server does not have the last applied transaction: the server was restored from a backup, and written to
    afterwards.

    What to do: re-snapshot all tables: `dbmazz snapshot`.
    """


class WrongServer(SlotError):
    """The destination's checkpoint belongs to another PostgreSQL cluster or database.

    What to do: correct `SOURCE_URL`, or choose another `SINK_URL`; if the tables have moved: `dbmazz snapshot
    --new-server`.
    """


class DestinationError(DbmazzError):
    """The destination cannot be opened or written.

    What to do: correct `SINK_URL`, or the permissions of file and directory.
    """

    exit_code = 6


class DestinationLocked(DestinationError):
    """Another process holds the destination file open.

    What to do: end the process that the error names, or wait longer (`SINK_LOCK_TIMEOUT_S`).
    """

    is_transient = True


class DestinationChanged(DestinationError):
    """Another process changed the capture's tables in the destination between two transactions of a window.

    What to do: run again; the capture resumes at the checkpoint of the file.
    """


class DestinationConflict(DestinationError):
    """A table in the destination was changed by another program, was not created by dbmazz, or belongs to another
    slot.

    What to do: undo the change, rename or drop the other table, or run `dbmazz snapshot --tables ...`, as the error
    says.
    """


class DestinationDamaged(DestinationError):
    """The destination file is not a DuckDB file: it is damaged, cut off, or another program's.

    What to do: move it away and run `dbmazz snapshot`, as the error says.
    """


class DestinationOutOfMemory(DestinationError):
    """DuckDB needs more memory than `SINK_MEMORY_LIMIT`, also when rows are written in pieces.

    What to do: raise `SINK_MEMORY_LIMIT`, or `MEMORY_LIMIT`, or lower `FLUSH_MAX_BYTES`.
    """


class TableNotStreaming(DestinationError):
    """A reader asked for a table that was not copied yet, or whose rows are older than those of the other tables.

    What to do: repair the table as the error says, or read it with `stale=True`.
    """


class DiskFull(DestinationError):
    """The file system of the destination is full.

    What to do: free some space and run the command again.
    """


class DataError(DbmazzError):
    """Data from PostgreSQL cannot be read, or cannot be represented in the destination.

    What to do: follow the error; nothing was applied beyond the checkpoint.
    """

    exit_code = 7


class ParseError(DataError):
    """A replication message is truncated, oversized or unknown.

    What to do: report it, with the server's version and the output of `dbmazz peek`.

    Attributes:
        message_type: Type byte of the message as a character, or `?` if the message has none.
        offset: Byte offset within the message at which reading failed.
        lsn: WAL position of the message.
    """

    def __init__(self, detail: str, *, message_type: str, offset: int, lsn: Lsn) -> None:
        super().__init__(
            f"malformed pgoutput message of type {message_type!r} at LSN {lsn}, byte {offset}: {detail}",
            object=f"message {message_type!r} at {lsn}",
            remedy="nothing was applied beyond the last checkpoint; please report this with the server's version "
            "and the output of `dbmazz peek`",
        )
        self.message_type = message_type
        self.offset = offset
        self.lsn = lsn


class MalformedCopy(DataError):
    """The rows of a copy do not have PostgreSQL's binary format: they were damaged on the way, or the format is new.

    What to do: run again; if it happens again, report it with the server's version and the table's definition.
    """


class BadValue(DataError):
    """A value cannot be represented in the destination's type.

    What to do: change the value in PostgreSQL, then run `dbmazz snapshot --tables ...`.
    """


class UnknownValue(DataError):
    """PostgreSQL did not send an unchanged TOAST value, and the row that should hold it is not in the destination.

    What to do: run `dbmazz snapshot --tables ...`.
    """


class SchemaChanged(DataError):
    """The columns of a table changed in the stream in a way that is not applied automatically.

    What to do: run `dbmazz snapshot --tables ...`.
    """
