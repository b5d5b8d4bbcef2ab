"""The server's state as its catalog shows it: version, limits, role, slots, WAL position."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.lsn import Lsn

#: SQL for the LSN up to which WAL can be read: flushed, or on a standby replayed (walsender.c).
_POSITION = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server, and the role that is connected.

    Attributes:
        version_num: `server_version_num`, such as 150018.
        version: `server_version`, such as `15.18`.
        system_identifier: As IDENTIFY_SYSTEM shows it; None where the role may not read it (a replication connection
            always may).
        timeline: Timeline of the last checkpoint; None where the role may not read it.
        database: The connection's database.
        wal_level: `replica`, `logical`, ...
        max_replication_slots: The setting.
        slots_in_use: Number of slots.
        idle_slots: Names of the slots that no process uses now.
        max_wal_senders: The setting.
        walsenders_in_use: Number of walsenders.
        flush_lsn: LSN up to which WAL can be read.
        in_recovery: Whether the server is a standby.
        role: The current role.
        is_superuser: Whether the role is a superuser.
        has_replication: Whether the role may open replication connections.
        may_create: Whether the role may create publications in the database.
        role_limit: CONNECTION LIMIT of the role; -1: none, as for superusers. Walsenders do not count.
        role_connections: Number of connections of the role, with that of the query.
        database_limit: CONNECTION LIMIT of the database; -1: none, as for superusers. Walsenders do not count.
        database_connections: Number of connections to the database, as far as the role may see them.
        idle_slot_timeout: `idle_replication_slot_timeout` with its unit; None if it is off, and before PostgreSQL 18.
        hot_standby_feedback: The setting, which counts on a standby.
    """

    version_num: int
    version: str
    system_identifier: str | None
    timeline: int | None
    database: str
    wal_level: str
    max_replication_slots: int
    slots_in_use: int
    idle_slots: list[str]
    max_wal_senders: int
    walsenders_in_use: int
    flush_lsn: Lsn
    in_recovery: bool
    role: str
    is_superuser: bool
    has_replication: bool
    may_create: bool
    role_limit: int
    role_connections: int
    database_limit: int
    database_connections: int
    idle_slot_timeout: str | None
    hot_standby_feedback: bool


def server_facts(conn: Connection) -> ServerFacts:
    """Read the facts about the server and the role, in one query, and one more for `system_identifier`."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            f"""
            SELECT current_setting('server_version_num')::int AS version_num,
                   split_part(current_setting('server_version'), ' ', 1) AS version,
                   current_database()::text AS database,
                   current_setting('wal_level') AS wal_level,
                   current_setting('max_replication_slots')::int AS max_replication_slots,
                   (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int AS slots_in_use,
                   ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE NOT active ORDER BY 1)
                       AS idle_slots,
                   current_setting('max_wal_senders')::int AS max_wal_senders,
                   (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int AS walsenders_in_use,
                   ({_POSITION})::text AS flush_lsn,
                   pg_is_in_recovery() AS in_recovery,
                   rolname::text AS role,
                   rolsuper AS is_superuser,
                   rolsuper OR rolreplication
                       -- Amazon RDS grants replication by membership instead of the attribute.
                       OR EXISTS (SELECT FROM pg_catalog.pg_roles rds WHERE rds.rolname = 'rds_replication'
                                  AND pg_has_role(rds.oid, 'USAGE')) AS has_replication,
                   has_database_privilege(current_database(), 'CREATE') AS may_create,
                   CASE WHEN rolsuper THEN -1 ELSE rolconnlimit END AS role_limit,
                   (SELECT count(*) FROM pg_catalog.pg_stat_activity
                    WHERE usename = rolname AND backend_type = 'client backend')::int AS role_connections,
                   CASE WHEN rolsuper THEN -1 ELSE (SELECT datconnlimit FROM pg_catalog.pg_database
                                                    WHERE datname = current_database()) END AS database_limit,
                   (SELECT count(*) FROM pg_catalog.pg_stat_activity
                    WHERE datname = current_database() AND backend_type = 'client backend')::int
                       AS database_connections,
                   nullif(current_setting('idle_replication_slot_timeout', true), '0') AS idle_slot_timeout,
                   current_setting('hot_standby_feedback')::bool AS hot_standby_feedback
            FROM pg_catalog.pg_roles WHERE rolname = current_user
            """
        ).fetchone()
    assert row is not None
    row["flush_lsn"] = Lsn.parse(row["flush_lsn"])
    system_identifier, timeline = _control_data(conn)
    return ServerFacts(**row, system_identifier=system_identifier, timeline=timeline)


def _control_data(conn: Connection) -> tuple[str | None, int | None]:
    """Return system identifier and timeline, or None where the role may not call the functions, as in some services."""
    row = conn.execute(
        "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') "
        "AND has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')"
    ).fetchone()
    if row is None or not row[0]:
        return None, None
    row = conn.execute(
        "SELECT system_identifier, timeline_id FROM pg_control_system(), pg_control_checkpoint()"
    ).fetchone()
    assert row is not None
    # The function returns a signed integer; IDENTIFY_SYSTEM prints an unsigned one.
    return str(row[0] % (1 << 64)), row[1]


def flush_lsn(conn: Connection) -> Lsn:
    """Return the LSN up to which the server's WAL can be read: flushed, or on a standby replayed."""
    row = conn.execute(f"SELECT ({_POSITION})::text").fetchone()
    assert row is not None
    return Lsn.parse(row[0])


def flush_partial_record(conn: Connection) -> None:
    """Have the rest of a WAL record flushed if the flush position may lie within the record.

    The WAL writer flushes whole pages, so the flush position can lie within a record. The stream reaches this position
    only after the rest of the record was flushed. On a quiet server with an open transaction that takes 15 s, until the
    background writer logs running transactions. The end of a transaction that has an id is flushed at the WAL writer's
    next turn (RecordTransactionCommit), with everything before it.
    """
    row = conn.execute(
        "SELECT NOT pg_is_in_recovery() AND mod(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'), "
        "current_setting('wal_block_size')::numeric) = 0"
    ).fetchone()
    if row is not None and row[0]:
        conn.execute("SELECT pg_current_xact_id()")


@dataclass(frozen=True, slots=True)
class SlotState:
    """A replication slot, as `pg_replication_slots` shows it.

    Attributes:
        name: Name of the slot.
        plugin: Output plugin; None for a physical slot.
        slot_type: `logical` or `physical`.
        database: Database of a logical slot; None for a physical slot.
        temporary: Whether the slot is dropped with its connection.
        active: Whether a process uses the slot.
        active_pid: Process id of the walsender that uses the slot, or None.
        active_application: `application_name` of that walsender, or None.
        confirmed_flush_lsn: LSN up to which changes were acknowledged; None while the slot is created.
        restart_lsn: LSN from which WAL is retained; None for an invalidated slot.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`.
        invalidation_reason: Why the slot was invalidated; None if it was not, and before PostgreSQL 17. `conflicting`
            where a standby of version 16 has invalidated it, which may have several reasons.
        retained_bytes: Bytes of WAL retained for the slot; None for an invalidated slot.
        two_phase: Whether the slot sends transactions when they are prepared.
        is_copy: Whether the slot, on a standby, is kept equal to one of the primary, for a failover.
    """

    name: str
    plugin: str | None
    slot_type: str
    database: str | None
    temporary: bool
    active: bool
    active_pid: int | None
    active_application: str | None
    confirmed_flush_lsn: Lsn | None
    restart_lsn: Lsn | None
    wal_status: str | None
    invalidation_reason: str | None
    retained_bytes: int | None
    two_phase: bool
    is_copy: bool

    @property
    def is_lost(self) -> bool:
        """Whether the slot is invalidated, so that it cannot be used again."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @property
    def lost_reason(self) -> str:
        """Why an invalidated slot is lost. Before PostgreSQL 16, the size of WAL was the only reason."""
        return self.invalidation_reason or "wal_removed"


#: PostgreSQL 16's column is true for every invalidated slot (slotfuncs.c: RS_INVAL_NONE), also on a primary, where only
#: the size of WAL can be the reason.
_CONFLICTING = (
    "CASE WHEN s.conflicting THEN CASE WHEN pg_is_in_recovery() THEN 'conflicting' ELSE 'wal_removed' END END"
)


def idle_slots(conn: Connection) -> tuple[int, int, list[str]]:
    """Return the number of slots, `max_replication_slots`, and the names of the slots that no process uses."""
    row = conn.execute(
        "SELECT count(*)::int, current_setting('max_replication_slots')::int, "
        "coalesce(array_agg(slot_name::text ORDER BY slot_name) FILTER (WHERE NOT active), '{}') "
        "FROM pg_catalog.pg_replication_slots"
    ).fetchone()
    assert row is not None
    taken, limit, names = row
    return taken, limit, names


def slot_state(conn: Connection, name: str) -> SlotState | None:
    """Return the state of a slot, or None if no slot has this name."""
    version, reason = conn.info.server_version, "NULL"
    if version >= 160000:
        reason = "s.invalidation_reason" if version >= 170000 else _CONFLICTING
    copied = "s.synced AND pg_is_in_recovery()" if version >= 170000 else "false"
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            f"""
            SELECT s.slot_name::text AS name, s.plugin::text, s.slot_type, s.database::text, s.temporary,
                   s.active, s.active_pid, nullif(a.application_name, '') AS active_application,
                   s.confirmed_flush_lsn::text, s.restart_lsn::text, s.wal_status,
                   {reason}::text AS invalidation_reason,
                   pg_wal_lsn_diff({_POSITION}, s.restart_lsn)::bigint AS retained_bytes,
                   s.two_phase, {copied} AS is_copy
            FROM pg_catalog.pg_replication_slots s
            LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
            WHERE s.slot_name = %s
            """.encode(),
            (name,),
        ).fetchone()
    if row is None:
        return None
    for position in ("confirmed_flush_lsn", "restart_lsn"):
        row[position] = Lsn.parse(row[position]) if row[position] else None
    return SlotState(**row)
