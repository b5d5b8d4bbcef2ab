"""Prepare PostgreSQL for capturing, check that it is, and take it all back.

The slot is made elsewhere (`replication`): only a replication connection exports the snapshot with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence

import psycopg
from psycopg import errors as pg

from dbmazz_core.connectors.sources.postgres.catalog.publication import Step, read_publication
from dbmazz_core.connectors.sources.postgres.connection import LOCK_TIMEOUT_S, Connection
from dbmazz_core.connectors.sources.postgres.errors.running import slot_active
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.connectors.sources.postgres.server.state import slot_state
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.server_checks import server_findings, slot_findings
from dbmazz_core.connectors.sources.postgres.setup.slots import PLUGIN
from dbmazz_core.connectors.sources.postgres.setup.table_checks import (
    column_findings,
    publication_findings,
    table_findings,
)
from dbmazz_core.errors import MissingPrivilege, SlotMismatch, SourceError, SourceNotReady, UnsupportedServerVersion
from dbmazz_core.model.findings import CheckReport, Finding, SetupReport
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: ALTER TABLE waits for queries on the table, and everybody else's queries then wait behind it.
_LOCK_TIMEOUT_S = 3
_ATTEMPTS = 3
#: A walsender that lost its client holds its slot for a moment.
_SLOT_RELEASE_WAIT_S = 3.0


def look_at(conn: Connection, config: SourceConfig) -> Look:
    """Look at the source.

    Raises:
        UnsupportedServerVersion: Nothing else can be looked at then.
        SourceError: If the server cannot be asked.
    """
    with translate_errors(config.url, slot=config.slot, publication=config.publication):
        return Look.read(conn, config)


def check(conn: Connection, config: SourceConfig, *, captured: Collection[TableRef] = ()) -> CheckReport:
    """Look at everything that capturing needs, without changing anything.

    What `prepare` will mend by itself is no error here.

    Parameters:
        conn: A connection made by `connect`.
        config: What is to be captured.
        captured: Tables that the destination already holds and follows. For these a missing publication, or
            one that lacks them, means lost changes, and is an error.

    Raises:
        SourceError: Only if the server cannot be asked.
    """
    try:
        look = look_at(conn, config)
    except UnsupportedServerVersion as error:
        return CheckReport((Finding.of(error),))
    return check_look(look.following(captured))


def check_look(look: Look) -> CheckReport:
    """What `check` finds in a look."""
    return CheckReport((*_source_findings(look), *slot_findings(look)))


def _source_findings(look: Look) -> Iterator[Finding]:
    yield from server_findings(look)
    yield from table_findings(look)
    yield from publication_findings(look)
    yield from column_findings(look)


def prepare(
    conn: Connection, config: SourceConfig, *, captured: Collection[TableRef] = (), look: Look | None = None
) -> tuple[SetupReport, Look]:
    """Set replica identities as the policy says, then create the publication or add the tables it lacks.

    Does nothing where everything is in place, and never takes anything away. Several at once wait for each
    other. The slot is not looked at: that is `verify_slot`'s, or it is about to be created anew.

    Parameters:
        conn: A connection made by `connect`.
        config: What is to be captured, and the replica identity policy.
        captured: Tables that the destination already holds and follows; see `check`.
        look: A look at the source. If it needs nothing, nobody else is waited for, and it is not looked at again.

    Returns:
        What was done, and the source as it is now.

    Raises:
        SourceNotReady: The first thing that prevents capturing, before anything is changed.
    """
    done: list[str] = []
    first: CheckReport | None = None
    if look is not None:
        look = look.following(captured)
        report = CheckReport((*_source_findings(look),))
        report.raise_first()
        if not look.steps():
            return _report(look, (), report), look
    with translate_errors(config.url, slot=config.slot, publication=config.publication), _one_at_a_time(conn, config):
        for _ in range(_ATTEMPTS):
            look = Look.read(conn, config).following(captured)
            report = CheckReport((*_source_findings(look),))
            first = first or report
            report.raise_first()
            if not (steps := look.steps()):
                break
            try:
                for step in steps:
                    _run(conn, step, look.facts.role)
                    done.append(step.done)
            except (pg.DuplicateObject, pg.UniqueViolation, pg.UndefinedObject, pg.InternalError_):
                # Somebody else (not a setup of ours: these wait) was at it at the same moment; "tuple
                # concurrently updated" is an internal error. Look again.
                continue
            look = Look.read(conn, config).following(captured)
            look.verify_tables()
            break
        else:
            raise SourceNotReady(
                f"publication {quote_identifier(config.publication)} keeps being changed by others",
                object=f"publication {config.publication}",
                remedy="run it again when nobody else is changing it",
            )
    return _report(look, done, first), look


def _report(look: Look, done: Sequence[str], check: CheckReport) -> SetupReport:
    return SetupReport(tuple(table.ref for table in look.tables), tuple(done), check)


@contextlib.contextmanager
def _one_at_a_time(conn: Connection, config: SourceConfig) -> Iterator[None]:
    """Keep other setups of this publication out of the way, and keep our locks from holding up the source."""
    key = ("hashtextextended(%s, 0)", (f"dbmazz setup {config.publication}",))
    conn.execute(f"SELECT pg_advisory_lock({key[0]})".encode(), key[1])
    try:
        conn.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT_S}s'".encode())
        yield
    finally:
        # The connection may be the thing that failed.
        with contextlib.suppress(psycopg.OperationalError):
            conn.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'".encode())
            conn.execute(f"SELECT pg_advisory_unlock({key[0]})".encode(), key[1])


def _run(conn: Connection, step: Step, role: str) -> None:
    for _ in range(_ATTEMPTS):
        try:
            conn.execute(step.sql.encode())
            return
        except pg.LockNotAvailable:
            problem: SourceError = _table_is_busy(conn, step)
        except pg.InsufficientPrivilege as error:
            problem = MissingPrivilege(
                f"role {quote_identifier(role)} may not do what setup has to: {error.diag.message_primary}",
                object=str(step.table or f"role {role}"),
                remedy=f"as a superuser or the owner: {step.sql}",
            )
            break
        # Queries that waited behind ours have their turn before the next attempt.
        time.sleep(0.5)
    raise problem


def _table_is_busy(conn: Connection, step: Step) -> SourceNotReady:
    holders = []
    if step.table is not None:
        holders = conn.execute(
            """
            SELECT DISTINCT pid FROM pg_catalog.pg_locks
            WHERE relation = to_regclass(%s) AND granted AND pid IS NOT NULL AND pid <> pg_backend_pid()
            """,
            (step.table.sql,),
        ).fetchall()
    who = f" by process {', '.join(str(pid) for (pid,) in holders)}" if holders else ""
    return SourceNotReady(
        f"{step.table or 'a table'} is in use{who}, so that setup could not run: {step.sql}",
        object=str(step.table or "setup"),
        remedy=f"end the long transaction on it, or run in a quiet moment: {step.sql}",
    )


def teardown(conn: Connection, config: SourceConfig) -> list[str]:
    """Drop the slot and the publication, where they exist. Replica identities stay as they are.

    Returns:
        What was done, one sentence each.

    Raises:
        SlotActive: A process consumes the slot; nothing is dropped.
        SlotMismatch: The slot of this name is another plugin's or database's; nothing is dropped.
        MissingPrivilege: The role may not drop one of them.
    """
    done: list[str] = []
    with translate_errors(config.url, slot=config.slot, publication=config.publication):
        if _drop_slot(conn, config.slot):
            done.append(f"dropped replication slot {config.slot}")
        publication = read_publication(conn, config.publication)
        if publication is not None:
            name = quote_identifier(config.publication)
            sql = f"DROP PUBLICATION IF EXISTS {name};"
            if not publication.owned:
                raise MissingPrivilege(
                    f"publication {name} belongs to {quote_identifier(publication.owner)}"
                    f"{f' ({done[0]})' if done else ''}",
                    object=f"publication {config.publication}",
                    remedy=f"as {quote_identifier(publication.owner)} or a superuser: {sql}",
                )
            conn.execute(sql.encode())
            done.append(f"dropped publication {name}")
    return done


def _drop_slot(conn: Connection, name: str) -> bool:
    deadline = time.monotonic() + _SLOT_RELEASE_WAIT_S
    while (slot := slot_state(conn, name)) is not None:
        row = conn.execute("SELECT current_database()::text").fetchone()
        if slot.plugin != PLUGIN or row != (slot.database,):
            raise SlotMismatch(
                f"replication slot {name} is not one of dbmazz's: its plugin is {slot.plugin}, its database "
                f"{slot.database}",
                object=f"replication slot {name}",
                remedy=f"if nobody needs it: SELECT pg_drop_replication_slot('{name}');",
            )
        if not slot.active:
            try:
                conn.execute("SELECT pg_drop_replication_slot(%s)", (name,))
            except pg.ObjectInUse:
                continue  # taken between the two queries
            except pg.UndefinedObject:
                return False
            return True
        if time.monotonic() > deadline:
            raise slot_active(name, slot.active_pid, slot.active_application)
        time.sleep(0.05)
    return False
