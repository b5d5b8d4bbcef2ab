"""Errors of a running PostgreSQL server as errors of this package, with a remedy.

The SQLSTATE decides. The message is searched only where errors share an SQLSTATE, and only for English words
(`connection` sets `lc_messages` to C where the role may).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq

from dbmazz_core.connectors.sources.postgres.errors.lost_slots import SNAPSHOT_REMEDY, slot_lost
from dbmazz_core.errors import (
    MissingPrivilege,
    NoFreeSlot,
    NoFreeWalSender,
    PublicationNotFound,
    ReplicationInterrupted,
    SlotActive,
    SlotMismatch,
    SlotNotFound,
    SourceError,
    SourceNotReady,
    TableLocked,
    WalLevelNotLogical,
)
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import quote_identifier, quote_literal


@dataclass(frozen=True, slots=True)
class Login:
    """Who connects where, without secrets. libpq's defaults and environment variables are applied.

    Attributes:
        role: Name of the role.
        database: Name of the database.
        server: `host:port`, several of them joined by commas, or the path of a Unix socket.
    """

    role: str
    database: str
    server: str

    @classmethod
    def of(cls, url: SecretUrl) -> Login:
        """Return the login that libpq uses for `url`."""
        values = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val}
        values |= {k: v for k, v in url.parameters.items() if v}
        role = values.get("user", "")
        hosts = (values.get("host") or values.get("hostaddr") or "localhost").split(",")
        ports = values.get("port", "5432").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        places = [
            f"{host}/.s.PGSQL.{port}" if host.startswith(("/", "@")) else f"{host or 'localhost'}:{port or 5432}"
            for host, port in zip(hosts, ports, strict=False)
        ]
        return cls(role, values.get("dbname") or role, ",".join(places))


#: What logical decoding says of itself when it cannot find a table of the past (relfilenumbermap.c, reorderbuffer.c).
_UNDECODABLE = re.compile(
    r"unexpected duplicate for tablespace|could not (map|find pg_class entry for) (filenode|filenumber|relfile)"
)


def source_error(
    sqlstate: str | None, message: str, url: SecretUrl, *, slot: str = "", publication: str = ""
) -> SourceError:
    """Return the error for a message of a running server about a query, a slot or the stream.

    `server.error_details` adds what only the server knows: who holds a lock, which slots are idle, why
    a slot is lost.

    Args:
        sqlstate: SQLSTATE of the message; None if the message is libpq's, which means that the connection broke.
        message: The primary message; only the first line is used. The password is redacted where the message is shown,
            and only there: a short one may be a part of a word.
        url: URL of the server.
        slot: The slot in use.
        publication: The publication in use.
    """
    login = Login.of(url)
    line = re.sub(r"^\w+: +", "", message.strip().split("\n", 1)[0])
    text = url.redact(line)
    slot_object = f"replication slot {slot}"
    if sqlstate is None or sqlstate.startswith("08") or sqlstate in ("57P01", "57P02", "57P03", "57P05"):
        return ReplicationInterrupted(
            f"the connection to {login.server} broke: {text or 'no reason given'}",
            object=login.server,
            remedy="run it again: it resumes at the checkpoint, nothing is lost",
        )
    match sqlstate:
        case "55006":  # object_in_use
            holder = re.search(r"\d+", re.sub(r'"[^"]*"', "", line))
            return slot_active(slot, int(holder[0]) if holder else None, None)
        case "42704":  # undefined_object
            # The slot may have the publication's name, so the name alone does not tell.
            if "publication" in line.lower() or (publication != slot and f'"{publication}"' in line):
                return publication_not_found(publication)
            return SlotNotFound(f"{slot_object} does not exist", object=slot_object, remedy=SNAPSHOT_REMEDY)
        case "42710":  # duplicate_object
            return SlotMismatch(
                f"{slot_object} exists already: another process has just created it",
                object=slot_object,
                remedy="if it was another run of this pipeline, run it again; else choose another "
                "SOURCE_SLOT_NAME, every pipeline needs its own",
            )
        case "55000":  # object_not_in_prerequisite_state
            if "wal_level" in line:
                return wal_level_not_logical(None)
            if re.search("not created in this database|physical", line, re.IGNORECASE):
                return slot_mismatch(slot, text)
            return slot_lost(slot, message=text)
        case "58P01" if "WAL" in line:  # undefined_file: "requested WAL segment ... has already been removed"
            return slot_lost(slot, reason="wal_removed", message=text)
        case "55P03":  # lock_not_available
            return TableLocked(text, object=login.server, remedy="end the transaction that holds the lock")
        case "53400":  # configuration_limit_exceeded
            return no_free_slot(0, 0, ())
        case "53300":  # too_many_connections
            return no_free_connection(text, login)
        case "25006":  # read_only_sql_transaction
            return SourceNotReady(
                f"{login.server} takes no changes: {text}",
                object=login.server,
                remedy="if it is a standby, put the primary's host into SOURCE_URL; if a pooler is between, "
                "PostgreSQL's own host and port",
            )
        case "42501":  # insufficient_privilege
            if re.search(r"replication|WAL sender", line, re.IGNORECASE):
                return missing_replication(login)
            return MissingPrivilege(
                f"role {quote_identifier(login.role)} lacks a privilege: {text}",
                object=f"role {login.role}",
                remedy="`dbmazz check` lists every privilege that is missing, with the GRANT for it",
            )
        case "XX000" if slot and _UNDECODABLE.search(line):
            return SourceError(
                f"PostgreSQL at {login.server} cannot decode its WAL for {slot_object}: {text} (SQLSTATE {sqlstate})",
                object=slot_object,
                remedy="this is a fault of the server: install its newest minor version and run again; if it happens "
                "again at the same place, run `dbmazz snapshot`, which gives the slot a position behind it",
            )
        case _:
            return SourceError(
                f"PostgreSQL at {login.server} reports: {text} (SQLSTATE {sqlstate})",
                object=slot_object if slot else login.server,
                remedy="look at the server's log around this time; nothing was applied beyond the checkpoint",
            )


def source_error_of(error: psycopg.Error, url: SecretUrl, *, slot: str = "", publication: str = "") -> SourceError:
    """Return the error that `source_error` makes of an exception of psycopg."""
    message = error.diag.message_primary or str(error)
    return source_error(error.sqlstate, message, url, slot=slot, publication=publication)


def missing_replication(login: Login) -> MissingPrivilege:
    """Return the error for a role that may not open replication connections."""
    role = quote_identifier(login.role)
    return MissingPrivilege(
        f"role {role} may not replicate: it lacks the REPLICATION attribute",
        object=f"role {login.role}",
        remedy=f"ALTER ROLE {role} REPLICATION; (on Amazon RDS: GRANT rds_replication TO {role};)",
    )


def no_free_connection(limit: str, login: Login, *, walsenders: tuple[int, int] | None = None) -> NoFreeWalSender:
    """Return the error for a limit on connections that is reached.

    Args:
        limit: The server's message, which names the limit.
        login: The login that was refused.
        walsenders: Number of walsenders and `max_wal_senders`, where known.
    """
    if "max_wal_senders" in limit:
        taken, most = walsenders or (0, 0)
        number = _higher_limit("max_wal_senders", most, taken)
        return NoFreeWalSender(
            f"all replication connections (max_wal_senders) of {login.server} are taken",
            object=login.server,
            remedy="end one (SELECT pid, application_name FROM pg_stat_replication;), or "
            f"ALTER SYSTEM SET max_wal_senders = {number}; and restart PostgreSQL",
        )
    if limited := re.search("too many connections for (role|database)", limit):
        return connection_limit(limited[1], login)
    return NoFreeWalSender(
        f"all connections of {login.server} are taken ({limit.strip()})",
        object=login.server,
        remedy="end one (SELECT pid, usename, application_name, state FROM pg_stat_activity;), or raise the "
        "limit: max_connections",
    )


def connection_limit(kind: str, login: Login, *, limit: int | None = None, taken: int = 0) -> NoFreeWalSender:
    """Return the error for the CONNECTION LIMIT of a role or a database.

    Args:
        kind: `role` or `database`.
        login: The login.
        limit: The limit; None: not known.
        taken: Number of other connections.
    """
    name = quote_identifier(login.role if kind == "role" else login.database)
    number = "" if limit is None else f" of {limit}"
    others = f", and {taken} others are open" if taken else ""
    column, value = ("usename", login.role) if kind == "role" else ("datname", login.database)
    return NoFreeWalSender(
        f"the CONNECTION LIMIT{number} of {kind} {name} is too low: dbmazz needs one connection, and "
        f"one to SNAPSHOT_PARALLEL_WORKERS more while it copies tables{others}",
        object=f"{kind} {login.role if kind == 'role' else login.database}",
        remedy=f"raise it, or have no limit: ALTER {kind.upper()} {name} CONNECTION LIMIT -1; or end other connections "
        f"(SELECT pid, application_name, state FROM pg_stat_activity WHERE {column} = {quote_literal(value)};)",
    )


def wal_level_not_logical(found: str | None) -> WalLevelNotLogical:
    """Return the error for a `wal_level` below `logical`; `found` is the server's level, where known."""
    return WalLevelNotLogical(
        f"wal_level is {found or 'not logical'}; row changes can be read only with logical",
        object="wal_level",
        remedy="ALTER SYSTEM SET wal_level = 'logical'; and restart PostgreSQL (managed services have a "
        "parameter for it, such as rds.logical_replication = 1 or cloudsql.logical_decoding = on)",
    )


def no_free_slot(taken: int, limit: int, idle: Sequence[str]) -> NoFreeSlot:
    """Return the error for `max_replication_slots` being reached.

    Args:
        taken: Number of slots. With a limit below it PostgreSQL does not start (slot.c, StartupReplicationSlots).
        limit: The setting; 0: not known.
        idle: Names of the slots that no process uses now.
    """
    higher = _higher_limit("max_replication_slots", limit, taken)
    example = quote_literal(idle[0]) if idle else "'...'"
    unused = f"no process uses {', '.join(idle[:5])}{' and others' if len(idle) > 5 else ''} now: " if idle else ""
    return NoFreeSlot(
        f"all {f'{limit} ' if limit else ''}replication slots (max_replication_slots) are taken",
        object="max_replication_slots",
        remedy=f"{unused}drop one that nobody needs any more (SELECT pg_drop_replication_slot({example});), or ALTER "
        f"SYSTEM SET max_replication_slots = {higher}; and restart PostgreSQL",
    )


def _higher_limit(setting: str, limit: int, taken: int) -> str:
    """Return a new value for a setting, above its present one and above what is in use."""
    return str(max(2 * limit, taken + 10)) if limit else f"<more than SHOW {setting}; tells>"


def slot_active(slot: str, pid: int | None, application: str | None) -> SlotActive:
    """Return the error for a slot that another process uses."""
    who = f"process {pid}" if pid else "another process"
    who += f" ({application})" if application else ""
    stop = f"stop it, end it with SELECT pg_terminate_backend({pid});" if pid else "stop it,"
    return SlotActive(
        f"replication slot {slot} is in use by {who}",
        object=f"replication slot {slot}",
        remedy=f"wait until it is done, {stop} or give this pipeline its own SOURCE_SLOT_NAME",
    )


def slot_mismatch(slot: str, why: str) -> SlotMismatch:
    """Return the error for a slot that exists and cannot be used."""
    return SlotMismatch(
        f"replication slot {slot} is not a slot of dbmazz: {why}",
        object=f"replication slot {slot}",
        remedy="choose another SOURCE_SLOT_NAME; or, if nobody needs that slot: "
        f"SELECT pg_drop_replication_slot('{slot}');",
    )


def two_phase_slot(slot: str) -> SlotMismatch:
    """Return the error for a slot that was made with `two_phase`.

    It sends a transaction at its PREPARE TRANSACTION, before anybody knows whether it commits, in messages that the
    protocol version that dbmazz asks for does not have (manual, "Logical Streaming Replication Protocol").
    """
    return SlotMismatch(
        f"replication slot {slot} was made with two_phase: it sends transactions when they are prepared, and dbmazz "
        "reads committed transactions",
        object=f"replication slot {slot}",
        remedy=f"SELECT pg_drop_replication_slot({quote_literal(slot)}); then {SNAPSHOT_REMEDY}; or choose another "
        "SOURCE_SLOT_NAME before the first capture",
    )


def slot_of_primary(slot: str) -> SlotMismatch:
    """Return the error for a standby's copy of a slot, which nobody can use before the standby is promoted."""
    return SlotMismatch(
        f"replication slot {slot} is the standby's copy of the primary's slot: it cannot be used before a promotion",
        object=f"replication slot {slot}",
        remedy="put the primary's host into SOURCE_URL, or choose another SOURCE_SLOT_NAME for the standby",
    )


def publication_not_found(publication: str) -> PublicationNotFound:
    """Return the error for a publication that was dropped after capturing had begun."""
    # Logical decoding reads the catalog as of each change. Creating the publication again does not help with changes
    # made before: up to PostgreSQL 17 they are an error, and PostgreSQL 18 leaves them out with a warning.
    name = quote_identifier(publication)
    return PublicationNotFound(
        f"publication {name} does not exist (or did not exist when the slot's next change was written)",
        object=f"publication {publication}",
        remedy="run `dbmazz snapshot`: it creates the publication and re-snapshots all tables (changes "
        "made while it was missing cannot be read)",
    )
