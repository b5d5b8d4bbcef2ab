"""The applier of each mode."""

from __future__ import annotations

from dbmazz_core.connectors.sinks.duckdb_sql.apply import RowApplier
from dbmazz_core.connectors.sinks.duckdb_sql.apply_changelog import ChangelogApplier
from dbmazz_core.connectors.sinks.duckdb_sql.apply_mirror import MirrorApplier
from dbmazz_core.connectors.sinks.duckdb_sql.apply_soft_delete import SoftDeleteApplier
from dbmazz_core.connectors.sinks.duckdb_sql.drift import DriftCheck
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode


def applier_of(mode: Mode, statements: Statements, drift: DriftCheck, lsn: Lsn) -> RowApplier | ChangelogApplier:
    """Return the applier of a mode.

    Args:
        mode: The mode of the table.
        statements: The table.
        drift: Compares row counts with expected counts.
        lsn: LSN of the table's snapshot.
    """
    match mode:
        case Mode.MIRROR:
            return MirrorApplier(statements, drift)
        case Mode.SOFT_DELETE:
            return SoftDeleteApplier(statements, drift, lsn)
        case Mode.CHANGELOG:
            return ChangelogApplier(statements, lsn)
