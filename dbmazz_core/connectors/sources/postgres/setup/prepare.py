"""Check and set up the prerequisites of capturing in PostgreSQL, and remove them.

`snapshot.exported` creates the slot: only a replication connection exports a snapshot with the new slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from psycopg import errors as pg

from dbmazz_core.connectors.sources.postgres.catalog.publication import Publication, read_publication
from dbmazz_core.connectors.sources.postgres.catalog.publication_name import possible_names, with_publication_name
from dbmazz_core.connectors.sources.postgres.connection import Connection, is_standby
from dbmazz_core.connectors.sources.postgres.errors.running import slot_active
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.connectors.sources.postgres.server.state import slot_state
from dbmazz_core.connectors.sources.postgres.setup.claims import release
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.run_statement import CONCURRENT_CHANGES, run_statement
from dbmazz_core.connectors.sources.postgres.setup.server_checks import (
    connection_limit_findings,
    server_findings,
    slot_findings,
    slot_limit_findings,
)
from dbmazz_core.connectors.sources.postgres.setup.setup_lock import setup_lock
from dbmazz_core.connectors.sources.postgres.setup.slots import PLUGIN
from dbmazz_core.connectors.sources.postgres.setup.statements import drop_publication as drop_statement
from dbmazz_core.connectors.sources.postgres.setup.table_checks import (
    column_findings,
    publication_findings,
    table_findings,
)
from dbmazz_core.errors import DbmazzError, MissingPrivilege, SlotMismatch, SourceNotReady, UnsupportedServerVersion
from dbmazz_core.model.findings import CheckReport, Finding, SetupReport
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

_ATTEMPTS = 3
#: Seconds to wait for the release of the slot: a walsender that lost its client holds its slot for a moment.
_SLOT_RELEASE_WAIT_S = 3.0


def read_look(conn: Connection, config: SourceConfig) -> Look:
    """Read the state of the source.

    Raises:
        UnsupportedServerVersion: The server is too old.
        SourceError: A query failed.
    """
    with translate_errors(config.url, slot=config.slot, publication=config.publication or ""):
        return Look.read(conn, config)


def check(conn: Connection, config: SourceConfig, *, captured: Collection[TableRef] = ()) -> CheckReport:
    """Check all prerequisites of capturing, without changing anything.

    A prerequisite that `prepare` can set up is no error.

    Args:
        conn: A connection made by `connect`.
        config: Settings of the source.
        captured: Tables that the destination already holds. If one of these is not published, changes are lost, which
            is an error.

    Raises:
        SourceError: A query failed. All other errors are in the report.
    """
    try:
        look = read_look(conn, config)
    except UnsupportedServerVersion as error:
        return CheckReport((Finding.of(error),))
    return check_look(look.following(captured))


def check_look(look: Look) -> CheckReport:
    """Return the findings of `check` in a look."""
    return CheckReport((*_source_findings(look), *slot_findings(look)))


def _source_findings(look: Look) -> Iterator[Finding]:
    yield from server_findings(look)
    yield from connection_limit_findings(look)
    yield from slot_limit_findings(look)
    yield from table_findings(look)
    yield from publication_findings(look)
    yield from column_findings(look)


def prepare(
    conn: Connection,
    config: SourceConfig,
    *,
    captured: Collection[TableRef] = (),
    look: Look | None = None,
    isolates: Callable[[TableRef], bool] = lambda _: False,
) -> tuple[SetupReport, Look]:
    """Set replica identities as the policy says, then create the publication or add missing tables.

    Setup is idempotent and removes nothing. Concurrent setups of one publication wait for each other. The slot is not
    checked here: `verify_slot` checks it, or it is created later.

    Args:
        conn: A connection made by `connect`.
        config: Settings of the source, with the policy for replica identities.
        captured: Tables that the destination already holds, see `check`.
        look: The last look at the source. If it needs no statement, no lock is taken, and the source is not read again.
        isolates: Returns whether a statement that fails for a table must not stop the set-up of the others.

    Returns:
        A report of the statements that were run, and the source after them.

    Raises:
        SourceNotReady: The first error that prevents capturing, before anything is changed.
    """
    done: list[str] = []
    problems: dict[TableRef, DbmazzError] = {}
    first: CheckReport | None = None
    excluded: frozenset[TableRef] = frozenset()
    if look is not None:
        look, excluded = look.following(captured), look.excluded
        report = CheckReport((*_source_findings(look),))
        report.raise_first()
        if not look.statements():
            return _report(look, (), report), look
    config = _named(conn, config) if look is None else look.config
    name = config.publication_name
    with translate_errors(config.url, slot=config.slot, publication=name), setup_lock(conn, config):
        attempts = 0
        while attempts < _ATTEMPTS:
            look = Look.read(conn, config).following(captured).without(excluded)
            report = CheckReport((*_source_findings(look),))
            first = first or report
            report.raise_first()
            if not (statements := [s for s in look.statements() if not problems.keys() & {*s.captured}]):
                break
            try:
                for statement in statements:
                    isolated = all(map(isolates, statement.captured))
                    run_statement(conn, statement, config.url, look.facts.role, hurried=isolated)
                    done.append(statement.done)
            except SourceNotReady as error:
                if not isolated:
                    raise
                # Other tables of a publication's statement can do without the one that is in the way.
                blocked = {*error.tables} & {*statement.captured} or {*statement.captured}
                problems |= dict.fromkeys(blocked, error)
                excluded |= blocked.difference(captured)
                continue
            except CONCURRENT_CHANGES:
                # Another session, which does not take the setup lock, changed the same objects. Read the source again.
                attempts += 1
                continue
            look = Look.read(conn, config).following(captured).without(excluded)
            look.verify_tables()
            break
        else:
            raise SourceNotReady(
                f"other sessions changed publication {quote_identifier(name)} during each attempt",
                object=f"publication {name}",
                remedy="run it again when no other session changes the publication",
            )
    return _report(look, done, first, problems), look


def _named(conn: Connection, config: SourceConfig) -> SourceConfig:
    """Return the settings with the name of the publication."""
    with translate_errors(config.url, slot=config.slot, publication=config.publication or ""):
        return with_publication_name(conn, config)


def _report(
    look: Look, done: Sequence[str], check: CheckReport, problems: Mapping[TableRef, DbmazzError] | None = None
) -> SetupReport:
    return SetupReport(tuple(table.ref for table in look.tables), tuple(done), check, problems or {})


def teardown(conn: Connection, config: SourceConfig, *, drop_publication: bool = False) -> list[str]:
    """Drop the slot, and the publication if dbmazz created it and no other slot can use it.

    Replica identities stay as they are.

    Args:
        conn: A connection made by `connect`.
        config: Settings of the source.
        drop_publication: Drop the publication in any case.

    Returns:
        One sentence for each object that was dropped, or left.

    Raises:
        SlotActive: A process consumes the slot; nothing is dropped.
        SlotMismatch: The slot belongs to another plugin or database; nothing is dropped.
        MissingPrivilege: The role may not drop one of them.
        SourceNotReady: The publication cannot be dropped: the server is a standby, or another session holds a lock.
    """
    done: list[str] = []
    default, config = possible_names(config)[0], _named(conn, config)
    with translate_errors(config.url, slot=config.slot, publication=config.publication_name):
        if _drop_slot(conn, config.slot):
            done.append(f"dropped replication slot {config.slot}")
        publication = read_publication(conn, config.publication_name)
        if publication is not None:
            name, statement = quote_identifier(publication.name), drop_statement(publication.name)
            if not drop_publication and is_standby(conn):
                left = f"left publication {name}: this server is a standby; to drop it, on the primary: {statement.sql}"
                return [*done, left]
            if not drop_publication and (reason := _reason_to_keep(conn, config, publication)):
                release(conn, config, _role(conn))
                # Without its slot, the publication is not found by the slot's name again.
                flags = "" if publication.name == default else f"--publication {publication.name} "
                return [*done, f"left publication {name}: {reason}; to drop it, add {flags}--drop-publication"]
            if not publication.owned:
                raise MissingPrivilege(
                    f"publication {name} belongs to {quote_identifier(publication.owner)}"
                    f"{f' ({done[0]})' if done else ''}",
                    object=f"publication {publication.name}",
                    remedy=f"as {quote_identifier(publication.owner)} or a superuser: {statement.sql}",
                )
            with setup_lock(conn, config):
                run_statement(conn, statement, config.url, _role(conn), done="".join(done))
            done.append(statement.done)
    return done


def _role(conn: Connection) -> str:
    row = conn.execute("SELECT current_user::text").fetchone()
    return row[0] if row else ""


def _reason_to_keep(conn: Connection, config: SourceConfig, publication: Publication) -> str | None:
    """Return why teardown leaves the publication; None if it can be dropped.

    The catalog does not tell which publications a slot uses: its consumer names them with each START_REPLICATION.
    """
    if not publication.created_by_dbmazz:
        return "dbmazz did not create it"
    others = conn.execute(
        "SELECT slot_name::text FROM pg_catalog.pg_replication_slots "
        "WHERE slot_name <> %s AND plugin = %s AND database = current_database() ORDER BY 1",
        (config.slot, PLUGIN),
    ).fetchall()
    if not others:
        return None
    return f"other slots of this database may use it ({', '.join(name for (name,) in others)})"


def drop_lost_slot(conn: Connection, config: SourceConfig) -> None:
    """Drop the slot if the server has invalidated it; such a slot cannot be used again.

    Raises:
        SlotError: The slot belongs to another plugin or database.
        SourceError: The role may not drop it.
    """
    with translate_errors(config.url, slot=config.slot, publication=config.publication_name):
        slot = slot_state(conn, config.slot)
        if slot is not None and slot.is_lost:
            _drop_slot(conn, config.slot)


def _drop_slot(conn: Connection, name: str) -> bool:
    """Drop a slot, after waiting up to `_SLOT_RELEASE_WAIT_S` for its release; return whether it existed."""
    deadline = time.monotonic() + _SLOT_RELEASE_WAIT_S
    while (slot := slot_state(conn, name)) is not None:
        row = conn.execute("SELECT current_database()::text").fetchone()
        if slot.plugin != PLUGIN or row != (slot.database,):
            raise SlotMismatch(
                f"replication slot {name} does not belong to this pipeline: its plugin is {slot.plugin}, its database "
                f"{slot.database}",
                object=f"replication slot {name}",
                remedy=f"if no other program needs it: SELECT pg_drop_replication_slot('{name}');",
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
