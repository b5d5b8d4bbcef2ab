"""Pause tables and resume them, on request of a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dbmazz_core.errors import TableNotFound
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.table_state import Problem, TableState, TableStatus
from dbmazz_core.settings.suggestions import suggestion
from dbmazz_core.table_ref import TableRef


def pause(sink: Sink, tables: Collection[TableRef]) -> Mapping[TableRef, TableState]:
    """Pause tables: windows leave them out, and their rows stay as they are. Return their states afterwards.

    Raises:
        TableNotFound: The destination does not know a table. Nothing was changed.
    """
    with sink.begin() as transaction:
        recorded = _known(sink.read(), tables)
        for table in tables:
            if recorded.all_states[table].state is not TableStatus.PAUSED:
                transaction.mark(table, TableStatus.PAUSED)
        transaction.commit()
    return _states(sink, tables)


def resume(sink: Sink, tables: Collection[TableRef]) -> Mapping[TableRef, TableState]:
    """Resume paused tables: the next window copies them again. Return their states afterwards.

    Tables that are not paused stay as they are.

    Raises:
        TableNotFound: The destination does not know a table. Nothing was changed.
    """
    with sink.begin() as transaction:
        recorded = _known(sink.read(), tables)
        paused = [table for table in tables if recorded.all_states[table].state is TableStatus.PAUSED]
        for table in paused:
            if table in recorded.tables:
                transaction.mark(table, TableStatus.COPYING, Problem(f"{table} was paused"))
            else:
                transaction.mark(table, TableStatus.PENDING)
        transaction.commit()
    return _states(sink, tables)


def _known(recorded: Recorded, tables: Collection[TableRef]) -> Recorded:
    for table in tables:
        if table not in recorded.all_states:
            known = sorted(map(str, recorded.all_states))
            raise TableNotFound(
                f"the destination has no table {table}{suggestion(str(table), known)}",
                object=str(table),
                remedy=f"choose from: {', '.join(known)}" if known else "run dbmazz capture, which copies the tables",
            )
    return recorded


def _states(sink: Sink, tables: Collection[TableRef]) -> dict[TableRef, TableState]:
    states = sink.read().all_states
    return {table: states[table] for table in tables}
