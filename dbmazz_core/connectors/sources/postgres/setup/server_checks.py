"""Checks of the server, the role and the slot."""

from __future__ import annotations

from collections.abc import Iterator

from dbmazz_core.connectors.sources.postgres.errors.lost_slots import RAISE_IDLE_TIMEOUT, SET_FEEDBACK
from dbmazz_core.connectors.sources.postgres.errors.running import (
    Login,
    connection_limit,
    missing_replication,
    no_free_connection,
    no_free_slot,
    slot_active,
    wal_level_not_logical,
)
from dbmazz_core.connectors.sources.postgres.server.version import known_decoding_bug
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.slots import unusable_slot
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.model.findings import Finding, Level

#: First major version with logical decoding on standbys.
_STANDBY_DECODING = 16


def server_findings(look: Look) -> Iterator[Finding]:
    """Yield findings about version, standby, wal_level, the role's REPLICATION, free slots and walsenders."""
    facts, login = look.facts, Login.of(look.config.url)
    server = f"PostgreSQL {facts.version}"
    if bug := known_decoding_bug(facts.version_num):
        problem = SourceNotReady(
            f"{server} {bug}", object=server, remedy="install the newest minor version of PostgreSQL"
        )
        yield Finding.of(problem, "warning")
    else:
        yield Finding("ok", f"{server} is supported", server)
    if facts.in_recovery and facts.version_num < _STANDBY_DECODING * 10000:
        yield Finding.of(
            SourceNotReady(
                f"{server} is a standby, and standbys decode no changes before version {_STANDBY_DECODING}",
                object=login.server,
                remedy="put the primary's host into SOURCE_URL (or all, with target_session_attrs=primary)",
            )
        )
    if facts.wal_level == "logical":
        yield Finding("ok", "wal_level is logical", "wal_level")
    else:
        yield Finding.of(wal_level_not_logical(facts.wal_level))
    if facts.has_replication:
        yield Finding("ok", f"role {facts.role} may replicate", f"role {facts.role}")
    else:
        # The role that is connected: the URL may not name it.
        yield Finding.of(missing_replication(Login(facts.role, facts.database, login.server)))
    used, limit = facts.slots_in_use, facts.max_replication_slots
    if look.slot is None and used >= limit:
        yield Finding.of(no_free_slot(used, limit, facts.idle_slots))
    else:
        yield Finding("ok", f"{used} of {limit} replication slots are taken", "max_replication_slots")
    used, limit = facts.walsenders_in_use, facts.max_wal_senders
    if used >= limit:
        yield Finding.of(no_free_connection("max_wal_senders", login, walsenders=(used, limit)))
    else:
        yield Finding("ok", f"{used} of {limit} walsenders are taken", "max_wal_senders")


def connection_limit_findings(look: Look) -> Iterator[Finding]:
    """Yield findings about a CONNECTION LIMIT that leaves no connection for copies besides that of the look.

    They are errors before the first copy, which the creation of the slot begins. Later there may be nothing to copy.
    While a pipeline runs, most likely this one, its connections are among the others.
    """
    facts, server = look.facts, Login.of(look.config.url).server
    running = look.slot is not None and look.slot.active
    level: Level = "error" if look.slot is None else "warning"
    if all(table.ref in look.captured for table in look.tables):
        return
    for kind, limit, used in (
        ("role", facts.role_limit, facts.role_connections),
        ("database", facts.database_limit, facts.database_connections),
    ):
        if 0 <= limit < 2 or (0 <= limit <= used and not running):
            login = Login(facts.role, facts.database, server)
            yield Finding.of(connection_limit(kind, login, limit=limit, taken=used - 1), level)


def slot_limit_findings(look: Look) -> Iterator[Finding]:
    """Yield warnings about settings under which the server invalidates the slot between two runs."""
    facts = look.facts
    if facts.idle_slot_timeout is not None:
        problem = SourceNotReady(
            f"idle_replication_slot_timeout is {facts.idle_slot_timeout}: the server invalidates the slot if no "
            "process uses it for longer, as between two runs",
            object="idle_replication_slot_timeout",
            remedy=RAISE_IDLE_TIMEOUT,
        )
        yield Finding.of(problem, "warning")
    if facts.in_recovery and not facts.hot_standby_feedback:
        problem = SourceNotReady(
            "hot_standby_feedback is off: when the primary vacuums its catalog, the standby invalidates the slot",
            object="hot_standby_feedback",
            remedy=SET_FEEDBACK,
        )
        yield Finding.of(problem, "warning")


def slot_findings(look: Look) -> Iterator[Finding]:
    """Yield a finding about the slot. `slots.verify_slot` checks the slot against the checkpoint."""
    slot, name = look.slot, f"replication slot {look.config.slot}"
    if slot is None:
        yield Finding("ok", f"{name} does not exist yet", name)
    elif problem := unusable_slot(slot, look.facts.database):
        yield Finding.of(problem)
    elif slot.active:
        # A pipeline is running, most likely this one.
        yield Finding.of(slot_active(slot.name, slot.active_pid, slot.active_application), "warning")
    else:
        retained = f", retaining {slot.retained_bytes:,} bytes of WAL" if slot.retained_bytes is not None else ""
        yield Finding("ok", f"{name} is confirmed up to {slot.confirmed_flush_lsn}{retained}", name)
