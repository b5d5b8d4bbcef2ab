"""What the server says about itself: version, limits, role, slots, WAL position."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.lsn import Lsn

#: Where the server's WAL can be read up to: what is flushed; on a standby, what is replayed (walsender.c).
_POSITION = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server, and the role that asks.

    Attributes:
        version_num: Such as 150018.
        version: Such as `15.18`.
        system_identifier: As IDENTIFY_SYSTEM shows it; None where the role may not know (the replication
            connection always may).
        timeline: Of the last checkpoint; None where the role may not know.
        database: The connection's database.
        wal_level: `replica`, `logical`, ...
        max_replication_slots: The limit, and `slots_in_use` of it; no process uses `idle_slots` now.
        max_wal_senders: The limit, and `walsenders_in_use` of it.
        flush_lsn: Position up to which WAL can be read.
        in_recovery: Whether it is a standby.
        role: The current role.
        is_superuser: Whether it is a superuser.
        has_replication: Whether it may replicate.
        may_create: Whether it may create publications in the database.
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


def server_facts(conn: Connection) -> ServerFacts:
    """Ask for everything in one query."""
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
                       -- Amazon RDS gives replication by membership instead of the attribute.
                       OR EXISTS (SELECT FROM pg_catalog.pg_roles rds WHERE rds.rolname = 'rds_replication'
                                  AND pg_has_role(rds.oid, 'USAGE')) AS has_replication,
                   has_database_privilege(current_database(), 'CREATE') AS may_create
            FROM pg_catalog.pg_roles WHERE rolname = current_user
            """
        ).fetchone()
    assert row is not None
    row["flush_lsn"] = Lsn.parse(row["flush_lsn"])
    system_identifier, timeline = _control_data(conn)
    return ServerFacts(**row, system_identifier=system_identifier, timeline=timeline)


def _control_data(conn: Connection) -> tuple[str | None, int | None]:
    """System identifier and timeline; some services take the functions away from everybody."""
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
    # The function returns a signed integer, IDENTIFY_SYSTEM prints an unsigned one.
    return str(row[0] % (1 << 64)), row[1]


def flush_lsn(conn: Connection) -> Lsn:
    """Position up to which the server's WAL can be read: flushed, or on a standby replayed."""
    row = conn.execute(f"SELECT ({_POSITION})::text").fetchone()
    assert row is not None
    return Lsn.parse(row[0])


def flush_partial_record(conn: Connection) -> None:
    """See to it that the record is flushed of which now only the beginning may be.

    The WAL writer flushes whole pages, so the flush position can lie within a record. The stream comes to it only once
    the rest is flushed as well: on a quiet server with an open transaction that takes 15 s (bgwriter's next word). A
    transaction id that was given out has its end flushed at the WAL writer's next turn (RecordTransactionCommit).
    """
    row = conn.execute(
        "SELECT NOT pg_is_in_recovery() AND mod(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'), "
        "current_setting('wal_block_size')::numeric) = 0"
    ).fetchone()
    if row is not None and row[0]:
        conn.execute("SELECT pg_current_xact_id()")


@dataclass(frozen=True, slots=True)
class SlotState:
    """A replication slot.

    Attributes:
        name: Its name.
        plugin: Output plugin; None for a physical slot.
        slot_type: `logical` or `physical`.
        database: Of a logical slot.
        temporary: Whether it goes with its connection.
        active: Whether a process consumes it.
        active_pid: That process.
        active_application: That process's `application_name`.
        confirmed_flush_lsn: Up to where changes were acknowledged; None before the slot is ready.
        restart_lsn: From where WAL is retained; None where it was invalidated.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`.
        invalidation_reason: Why it was invalidated, from PostgreSQL 17 on.
        retained_bytes: WAL kept for it, in bytes; None where it was invalidated.
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

    @property
    def is_lost(self) -> bool:
        """Whether the server no longer has the WAL that it needs."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


def idle_slots(conn: Connection) -> tuple[int, int, list[str]]:
    """How many slots there are, how many there may be, and the names of those that no process uses now."""
    row = conn.execute(
        "SELECT count(*)::int, current_setting('max_replication_slots')::int, "
        "coalesce(array_agg(slot_name::text ORDER BY slot_name) FILTER (WHERE NOT active), '{}') "
        "FROM pg_catalog.pg_replication_slots"
    ).fetchone()
    assert row is not None
    taken, limit, names = row
    return taken, limit, names


def slot_state(conn: Connection, name: str) -> SlotState | None:
    """The slot, or None where there is none of this name."""
    reason = "s.invalidation_reason" if conn.info.server_version >= 170000 else "NULL"
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            f"""
            SELECT s.slot_name::text AS name, s.plugin::text, s.slot_type, s.database::text, s.temporary,
                   s.active, s.active_pid, nullif(a.application_name, '') AS active_application,
                   s.confirmed_flush_lsn::text, s.restart_lsn::text, s.wal_status,
                   {reason}::text AS invalidation_reason,
                   pg_wal_lsn_diff({_POSITION}, s.restart_lsn)::bigint AS retained_bytes
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
