"""Which tables have changed in the destination without an event in Dagster.

A window that fails behind a committed flush, a killed worker, a `dbmazz capture` from a shell and a new Dagster storage
all leave tables that Dagster believes to be older than they are. The destination knows the LSN of each table's last
change; it is the data version of the table's materializations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import dagster as dg

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.table_ref import TableRef

#: Dagster's tag for the data version of a materialization or an observation.
DATA_VERSION_TAG: Final = "dagster/data_version"


def changed_lsn(state: TableState) -> Lsn | None:
    """Return the LSN of the last change that the destination has of a table: the data version of its rows.

    That is the LSN of the last copy, or of the checkpoint with the last change after it; None if it was never copied.
    """
    if state.snapshot_lsn is None:
        return None
    return max(state.last_change_lsn or state.snapshot_lsn, state.snapshot_lsn)


def owed_tables(
    instance: dg.DagsterInstance, assets: Mapping[TableRef, dg.AssetKey], states: Mapping[TableRef, TableState]
) -> dict[TableRef, Lsn]:
    """Return the tables whose last change has no materialization, each with the LSN of that change.

    Args:
        instance: The Dagster instance.
        assets: The asset of each table.
        states: The tables of the destination.
    """
    changed = {
        table: lsn
        for table, state in states.items()
        if table in assets and state.state is not TableStatus.REMOVED and (lsn := changed_lsn(state)) is not None
    }
    records = instance.get_asset_records([assets[table] for table in changed])
    reported = {record.asset_entry.asset_key: record.asset_entry.last_materialization for record in records}
    return {table: lsn for table, lsn in changed.items() if not _is_reported(lsn, reported.get(assets[table]))}


def _is_reported(changed: Lsn, event: dg.EventLogEntry | None) -> bool:
    if event is None or (materialization := event.asset_materialization) is None:
        return False
    version = (materialization.tags or {}).get(DATA_VERSION_TAG)
    if version is not None and (reported := _lsn(version)) is not None:
        return reported == changed
    # An older version wrote no data version, but up to which LSN the window had applied all changes.
    confirmed = materialization.metadata.get("confirmed_lsn")
    lsn = _lsn(str(confirmed.value)) if confirmed is not None else None
    return lsn is not None and lsn >= changed


def _lsn(text: str) -> Lsn | None:
    try:
        return Lsn.parse(text)
    except ValueError:
        return None


def owed_metadata(state: TableState) -> dict[str, Any]:
    """Return the metadata of a materialization that tells of a change after the fact."""
    figures: dict[str, Any] = {
        "state": state.state.value,
        "mode": state.mode.value,
        "last_change_lsn": str(changed_lsn(state)),
        "rows_as_of_lsn": None if state.lsn is None else str(state.lsn),
        "dagster/row_count": state.rows,
    }
    return {name: value for name, value in figures.items() if value is not None}


def owed_events(
    assets: Mapping[TableRef, dg.AssetKey],
    owed: Mapping[TableRef, Lsn],
    states: Mapping[TableRef, TableState],
    why: str,
) -> Iterator[dg.AssetMaterialization]:
    """Yield a materialization for each table that is owed one.

    Args:
        assets: The asset of each table.
        owed: The tables, with the LSNs of their last changes.
        states: The tables of the destination.
        why: Why no window reports it, as a sentence.
    """
    for table, lsn in sorted(owed.items()):
        yield dg.AssetMaterialization(
            assets[table],
            description=why,
            metadata=owed_metadata(states[table]),
            tags={DATA_VERSION_TAG: str(lsn)},
        )
