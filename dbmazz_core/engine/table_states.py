"""Record the states of tables that do not stream, and find the tables that wait for a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from dbmazz_core.engine.isolation import CHANGES_MISSED, UNRECORDED, facts, is_held
from dbmazz_core.errors import DbmazzError
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Source
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.model.table_state import Problem, TableState, TableStatus
from dbmazz_core.settings.config import TableConfig
from dbmazz_core.table_ref import TableRef


def record_states(
    sink: Sink,
    recorded: Recorded,
    *,
    configured: Collection[TableRef] | None,
    problems: Mapping[TableRef, DbmazzError],
    again: Mapping[TableRef, str] | None = None,
    retry_when: Mapping[TableRef, str | None] | None = None,
) -> Recorded:
    """Record which tables do not stream, in a transaction of its own; return the bookkeeping afterwards.

    A state that is recorded already is not written again, so that a window without changes writes nothing.

    Args:
        sink: Open, without a transaction.
        recorded: The bookkeeping before.
        configured: The configured tables; None: tables that are no longer configured are not looked for.
        problems: Tables that are left out because of an error.
        again: Tables that are going to be copied again, with the reason.
        retry_when: See `TableState.retry_when`, by table; tables without an entry are tried again by every window.
    """
    marks: dict[TableRef, tuple[TableStatus, Problem | None, str | None]] = {}
    gone: list[TableRef] = []
    for ref, why in (again or {}).items():
        if ref in recorded.tables:
            marks[ref] = TableStatus.COPYING, Problem(f"{ref} {why}"), None
    if configured is not None:
        for ref, state in recorded.all_states.items():
            if ref not in configured and state.state is not TableStatus.PAUSED:
                if ref in recorded.pending:
                    gone.append(ref)
                elif state.state is not TableStatus.REMOVED:
                    missed = None if state.state is TableStatus.STREAMING else CHANGES_MISSED
                    marks[ref] = TableStatus.REMOVED, missed, None
    for ref, error in problems.items():
        status = TableStatus.FAILED if ref in recorded.tables else TableStatus.PENDING
        marks[ref] = status, Problem.of(error), (retry_when or {}).get(ref)
    marks = {ref: mark for ref, mark in marks.items() if not _is_recorded(recorded.all_states.get(ref), *mark)}
    if not marks and not gone:
        return recorded
    with sink.begin() as transaction:
        for ref, (status, problem, when) in marks.items():
            transaction.mark(ref, status, problem, retry_when=when)
        transaction.forget(gone)
        transaction.commit()
    return sink.read()


def _is_recorded(state: TableState | None, status: TableStatus, problem: Problem | None, when: str | None) -> bool:
    return state is not None and (state.state, state.problem, state.retry_when) == (status, problem, when)


def unmissed(recorded: Recorded) -> dict[TableRef, TableToken]:
    """Return the removed tables that have missed no change since, with their tokens."""
    tables = [recorded.tables[ref] for ref in recorded.in_state(TableStatus.REMOVED) if ref in recorded.tables]
    return {
        table.state.table: table.shape.token
        for table in tables
        if table.state.problem is None and table.shape.token is not None
    }


def bring_back(sink: Sink, recorded: Recorded, configured: Collection[TableRef]) -> Recorded:
    """Let removed tables stream again that are configured again and have missed nothing; return the bookkeeping."""
    back = [ref for ref in unmissed(recorded) if ref in configured and recorded.tables[ref].altered is None]
    if not back or recorded.checkpoint is None:
        return recorded
    with sink.begin() as transaction:
        for ref in back:
            transaction.mark(ref, TableStatus.STREAMING)
        transaction.commit()
    return sink.read()


def held_tables(
    recorded: Recorded, tables: Collection[TableRef], source: Source, settings: TableConfig
) -> set[TableRef]:
    """Return the tables that wait for a person, or for a change of what their trouble depends on.

    Without a checkpoint only paused tables wait: the capture has nothing else to do.
    """
    states = recorded.all_states
    held = {ref for ref in tables if ref in states and states[ref].state is TableStatus.PAUSED}
    waiting = [ref for ref in tables if ref in states and states[ref].retry_when is not None]
    if waiting and recorded.checkpoint is not None:
        now = source.describe_tables(waiting)
        held |= {
            ref
            for ref in waiting
            if is_held(states[ref], partial(facts, ref, now.get(ref), recorded.tables.get(ref), settings))
        }
    return held


def record_facts(sink: Sink, recorded: Recorded, source: Source, settings: TableConfig) -> Recorded:
    """Record what the trouble of tables depends on, where that is not recorded yet; return the bookkeeping afterwards.

    A later change of these facts lets the next window try again.
    """
    unrecorded = [ref for ref, state in recorded.all_states.items() if state.retry_when == UNRECORDED]
    if not unrecorded:
        return recorded
    now = source.describe_tables(unrecorded)
    with sink.begin() as transaction:
        for ref in unrecorded:
            state = recorded.all_states[ref]
            when = facts(ref, now.get(ref), recorded.tables.get(ref), settings)
            transaction.mark(ref, state.state, state.problem, retry_when=when)
        transaction.commit()
    return sink.read()
