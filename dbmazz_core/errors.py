"""Every error that dbmazz raises on purpose, as one tree.

Each says what happened, to which object, and what to do about it: exact SQL or an exact command. The exit code
is that of the `dbmazz` command.

    DbmazzError
    ├── ConfigError                   2  a setting is missing or malformed
    ├── SourceError
    │   ├── ConnectionFailed          3  server unreachable, unknown host, TLS refused
    │   │   └── AuthenticationFailed  3  wrong password, unknown role or database, no pg_hba.conf entry
    │   ├── ReplicationInterrupted    3  the stream broke in the middle; a new run resumes
    │   ├── ServerChanged             3  one run was led to two servers; a new run begins anew
    │   ├── SourceNotReady            4  the server or a table has to be changed first
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
    │   └── SlotError                 5  slot and checkpoint do not fit each other
    │       ├── SlotNotFound
    │       ├── SlotActive
    │       ├── SlotMismatch
    │       ├── SlotLost
    │       ├── SlotAheadOfCheckpoint
    │       ├── SlotCreationBlocked
    │       ├── ServerBehindCheckpoint
    │       ├── HistoryDiverged
    │       └── WrongServer
    ├── DestinationError              6  the destination cannot be opened or written
    │   ├── DestinationLocked
    │   ├── DestinationConflict
    │   └── DiskFull
    └── DataError                     7  what came cannot be represented or understood
        ├── ParseError
        ├── BadValue
        ├── UnknownValue
        └── SchemaChanged
"""

from __future__ import annotations

from typing import ClassVar

from dbmazz_core.lsn import Lsn


class DbmazzError(Exception):
    """Base of all errors of dbmazz.

    Attributes:
        what: What happened, one sentence.
        object: The object it happened to: a table, slot, publication, variable or file.
        remedy: What to do: SQL or a command, ready to paste where there is one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, object: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.object = object
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  what to do: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (type(self), self.what, {**self.__dict__}))

    def to_dict(self) -> dict[str, str | int]:
        """The error as `--json` prints it: keys `error`, `what`, `object`, `remedy`, `exit_code`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "object": self.object,
            "remedy": self.remedy,
            "exit_code": self.exit_code,
        }


def _restored(kind: type[DbmazzError], what: str, attributes: dict[str, object]) -> DbmazzError:
    """Unpickle: errors cross processes, and their constructors differ."""
    error = kind.__new__(kind, what)
    error.__dict__.update(attributes)
    return error


class ConfigError(DbmazzError):
    """A setting is missing, unknown or malformed. `object` is the variable's name."""

    exit_code = 2


class SourceError(DbmazzError):
    """Anything wrong on PostgreSQL's side."""

    exit_code = 3


class ConnectionFailed(SourceError):
    """PostgreSQL cannot be reached: unknown host, refused connection, TLS failure."""


class AuthenticationFailed(ConnectionFailed):
    """PostgreSQL refused the role, the password, the database or the client's address."""


class ReplicationInterrupted(SourceError):
    """The replication stream broke. Nothing is lost: the next run resumes at the checkpoint."""


class ServerChanged(SourceError):
    """Connections of one run reached different servers, or it was restarted or promoted in between."""


class SourceNotReady(SourceError):
    """The server, a privilege or a table has to be changed before changes can be captured."""

    exit_code = 4


class UnsupportedServerVersion(SourceNotReady):
    """The server is older than PostgreSQL 14."""


class WalLevelNotLogical(SourceNotReady):
    """`wal_level` is not `logical`."""


class NoFreeSlot(SourceNotReady):
    """All of `max_replication_slots` are taken."""


class NoFreeWalSender(SourceNotReady):
    """All of `max_wal_senders`, or of another limit on connections, are taken."""


class MissingPrivilege(SourceNotReady):
    """The role lacks a privilege; the remedy holds the GRANT or ALTER ROLE."""


class TableNotFound(SourceNotReady):
    """A configured table does not exist."""


class TableNotSupported(SourceNotReady):
    """Views, sequences, foreign, temporary and unlogged tables write no logical changes."""


class TableLocked(SourceNotReady):
    """Another transaction locks out all readers of a table, and has for a minute; the error names it."""


class ReplicaIdentityInsufficient(SourceNotReady):
    """Updates and deletes of the table would carry nothing to find the row by."""


class PublicationNotFound(SourceNotReady):
    """The publication does not exist."""


class PublicationLacksTable(SourceNotReady):
    """The publication exists but leaves out a configured table, or an operation on it."""


class SlotError(SourceError):
    """Replication slot and checkpoint do not fit each other."""

    exit_code = 5


class SlotNotFound(SlotError):
    """The slot that the checkpoint belongs to is gone."""


class SlotActive(SlotError):
    """Another process is consuming the slot; the error names its pid and application."""


class SlotMismatch(SlotError):
    """A slot of this name exists, but for another database, plugin or as a physical slot."""


class SlotLost(SlotError):
    """The server removed WAL that the slot needed (`max_slot_wal_keep_size`), or invalidated it."""


class SlotAheadOfCheckpoint(SlotError):
    """The slot was confirmed beyond the checkpoint: changes in between are gone for good."""


class SlotCreationBlocked(SlotError):
    """Creating a slot waits for a transaction that is still open; the error names its pid and age."""


class ServerBehindCheckpoint(SlotError):
    """The server's history does not reach the checkpoint: it was restored from a backup, or promoted too early."""


class HistoryDiverged(SlotError):
    """The server no longer has the last transaction that was applied: it was restored from a backup, and written to."""


class WrongServer(SlotError):
    """The destination's checkpoint belongs to another PostgreSQL cluster or database."""


class DestinationError(DbmazzError):
    """The destination cannot be opened or written."""

    exit_code = 6


class DestinationLocked(DestinationError):
    """Another process holds the destination file."""


class DestinationConflict(DestinationError):
    """A destination table is not what dbmazz left there, or not dbmazz's at all."""


class DiskFull(DestinationError):
    """No space left where the destination lies."""


class DataError(DbmazzError):
    """What came from PostgreSQL cannot be understood or represented."""

    exit_code = 7


class ParseError(DataError):
    """A replication message is truncated, oversized or unknown.

    Attributes:
        message_type: The message's type byte as a character, or `?`.
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


class BadValue(DataError):
    """A value cannot be represented in the destination's type."""


class UnknownValue(DataError):
    """PostgreSQL left out an unchanged TOAST value, and the row that should hold it is not in the destination."""


class SchemaChanged(DataError):
    """A table's columns changed in the stream in a way that is not applied automatically."""
