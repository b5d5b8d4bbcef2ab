"""Open transactions that block the creation of a slot or the reading of a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.errors import SlotCreationBlocked, SlotError, TableLocked
from dbmazz_core.table_ref import TableRef, quote_literal


@dataclass(frozen=True, slots=True)
class BlockingTransaction:
    """An open transaction that other sessions wait for.

    Attributes:
        pid: Process id of its session; None for a prepared transaction.
        gid: Identifier of a prepared transaction, else None.
        role: The role that runs it; None for a process of the server, such as autovacuum.
        database: The database it runs in; a slot's creation waits for transactions of all databases.
        application: `application_name` of its session.
        state: As in `pg_stat_activity`, or `prepared`; None where the role may not see it.
        age_s: Seconds since the transaction began; None where the role may not see it.
        query_age_s: Seconds since its last query began; None where the role may not see it.
    """

    pid: int | None
    gid: str | None
    role: str | None
    database: str | None
    application: str | None
    state: str | None
    age_s: float | None
    query_age_s: float | None

    def __str__(self) -> str:
        name = f"process {self.pid}" if self.pid is not None else f"prepared transaction {self.gid!r}"
        application = f"{self.application}, " if self.application else ""
        age = f", open for {self.age_s:.0f} s" if self.age_s is not None else ""
        state = f", {self.state}" if self.state and self.pid is not None else ""
        role = f"role {self.role}" if self.role else "a process of the server, such as autovacuum"
        return f"{name} ({application}{role}, database {self.database}{state}{age})"

    @property
    def remedy(self) -> str:
        """The statement that ends the transaction."""
        if self.pid is not None:
            return f"SELECT pg_terminate_backend({self.pid});"
        return f"ROLLBACK PREPARED {quote_literal(self.gid or '')}; in database {self.database}"


def slot_creation_blockers(conn: Connection) -> list[BlockingTransaction]:
    """Return the open transactions that a slot's creation waits for, oldest first.

    A slot reaches its consistent point when all transactions that were writing at the start have ended, in every
    database, prepared ones as well (snapbuild.c, SnapBuildFindSnapshot). Transactions that only read do not count.
    """
    return [
        BlockingTransaction(*row)
        for row in conn.execute(
            """
            SELECT pid, NULL, usename::text, datname::text, nullif(application_name, ''), state,
                   extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age,
                   extract(epoch FROM clock_timestamp() - query_start)::float8, age(backend_xid) AS xids
            FROM pg_catalog.pg_stat_activity
            WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
            UNION ALL
            SELECT NULL, gid, owner::text, database::text, NULL, 'prepared',
                   extract(epoch FROM clock_timestamp() - prepared)::float8, NULL, age(transaction)
            FROM pg_catalog.pg_prepared_xacts
            ORDER BY xids DESC
            """
        )
        for row in [row[:-1]]
    ]


#: Run on the primary, tells a standby which transactions are open. A primary that writes logs the same every 15 s.
LOG_STANDBY_SNAPSHOT = "SELECT pg_log_standby_snapshot()"


def slot_creation_blocked(
    slot: str, blockers: Sequence[BlockingTransaction], waited_s: float, *, standby: bool = False
) -> SlotError:
    """Return the error for a slot's creation that was given up.

    Args:
        slot: The slot's name.
        blockers: Transactions that the creation waits for. A standby does not list the primary's.
        waited_s: Seconds that the creation has waited.
        standby: Whether the server is a standby (manual, "Logical Replication Slots on standbys").
    """
    if standby and not blockers:
        return SlotCreationBlocked(
            f"creating replication slot {slot} on a standby waited {waited_s:.0f} s for the primary to log which of "
            "its transactions are open",
            object=f"replication slot {slot}",
            remedy=f"run it again, and meanwhile, on the primary: {LOG_STANDBY_SNAPSHOT}; if that does not help, end "
            "the primary's oldest transactions",
        )
    oldest = blockers[0] if blockers else None
    others = f" and {len(blockers) - 1} more" if len(blockers) > 1 else ""
    return SlotCreationBlocked(
        f"creating replication slot {slot} waited {waited_s:.0f} s for a transaction to end: "
        f"{oldest or 'none that is still open'}{others}",
        object=f"replication slot {slot}",
        remedy=f"wait until it has ended, or end it: {oldest.remedy}" if oldest else "run it again",
    )


def table_lockers(conn: Connection) -> list[tuple[TableRef, BlockingTransaction]]:
    """Return the tables of this database that are locked against readers, each with the locking transaction.

    The oldest transaction comes first. ALTER TABLE, TRUNCATE and VACUUM FULL, among others, take an ACCESS EXCLUSIVE
    lock (manual, "Table-Level Locks"). It blocks readers as soon as it is requested, before it is granted.
    """
    return _lock_holders(conn, "l.mode = 'AccessExclusiveLock'", {})


def lock_holders(
    conn: Connection, tables: Collection[TableRef], *, any_lock: bool
) -> list[tuple[TableRef, BlockingTransaction]]:
    """Return the other transactions that have locked tables, each with the table; the oldest comes first.

    Args:
        conn: An ordinary connection.
        tables: The tables.
        any_lock: Whether all locks count; otherwise only those that conflict with SHARE UPDATE EXCLUSIVE.
    """
    condition = """l.granted AND (%(any)s OR l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock',
            'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
        AND (n.nspname, c.relname) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))"""
    schemas, names = [table.schema for table in tables], [table.name for table in tables]
    holders = _lock_holders(conn, condition, {"any": any_lock, "schemas": schemas, "names": names})
    return list({(table, holder.pid, holder.gid): (table, holder) for table, holder in holders}.values())


def _lock_holders(
    conn: Connection, condition: str, arguments: Mapping[str, object]
) -> list[tuple[TableRef, BlockingTransaction]]:
    """Return tables of this database, each with a transaction that has, or waits for, a lock `l` on it, oldest first.

    Args:
        conn: An ordinary connection.
        condition: SQL about the lock `l`, the table `c` and its schema `n`.
        arguments: Parameters of the condition.
    """
    return [
        (TableRef(row[0], row[1]), BlockingTransaction(*row[2:]))
        for row in conn.execute(
            f"""
            SELECT n.nspname::text, c.relname::text, l.pid, p.gid, coalesce(a.usename, p.owner)::text,
                   current_database()::text, nullif(a.application_name, ''),
                   CASE WHEN l.pid IS NULL THEN 'prepared' ELSE a.state END,
                   extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS age,
                   extract(epoch FROM clock_timestamp() - a.query_start)::float8
            FROM pg_catalog.pg_locks l
            JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = current_database()
            JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname NOT LIKE 'pg\\_%%'
            LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
            LEFT JOIN pg_catalog.pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
                                           AND x.virtualtransaction = l.virtualtransaction
            LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
            WHERE {condition} AND l.pid IS DISTINCT FROM pg_backend_pid()
            ORDER BY coalesce(a.xact_start, p.prepared) NULLS LAST, 1, 2
            """.encode(),
            arguments,
        )
    ]


def table_locked(lockers: Sequence[tuple[TableRef, BlockingTransaction]], message: str) -> TableLocked:
    """Return the error for a query that has waited for a table's lock up to its `lock_timeout`.

    Args:
        lockers: From `table_lockers`, right after the error.
        message: The server's message.
    """
    if not lockers:
        return TableLocked(f"a lock was not granted in time: {message}", object="a lock", remedy="run it again")
    table, transaction = lockers[0]
    others = f" (and {len(lockers) - 1} more such locks)" if len(lockers) > 1 else ""
    return TableLocked(
        f"{table} is locked by {transaction}{others}: {message}",
        object=table,
        remedy=f"wait until it has ended, or end it: {transaction.remedy}",
    )
