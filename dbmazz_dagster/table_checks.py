"""The checks of tables that windows evaluate: they stream, keys are unique, quarantine is empty."""

from __future__ import annotations

import dagster as dg

from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.model.table_audit import TableAudit
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_dagster.metadata import number, state_metadata
from dbmazz_dagster.tags import IS_STREAMING, KEY_UNIQUE, QUARANTINE_EMPTY


def table_check_specs(key: dg.AssetKey, policy: BadValuePolicy, *, blocking: bool) -> list[dg.AssetCheckSpec]:
    """Return the checks of a table that windows evaluate.

    Args:
        key: The table's asset.
        policy: What becomes of rows with values that the destination cannot hold.
        blocking: Whether a check that fails keeps the assets downstream, in the same run, from being executed.
    """
    described = {
        IS_STREAMING: "The table has the changes up to the checkpoint.",
        KEY_UNIQUE: "Every key is unique in the destination.",
    }
    if policy is BadValuePolicy.QUARANTINE:
        described[QUARANTINE_EMPTY] = "No row is in quarantine."
    return [dg.AssetCheckSpec(name, asset=key, description=text, blocking=blocking) for name, text in described.items()]


def streaming_result(state: TableState) -> dg.AssetCheckResult:
    """Return the result of `is_streaming`. An error fails it; a paused table, or one that waits, is a warning."""
    streams = state.state is TableStatus.STREAMING
    reason = state.problem.reason if state.problem else f"{state.table} is {state.state.value}"
    return dg.AssetCheckResult(
        passed=streams,
        severity=dg.AssetCheckSeverity.ERROR if state.is_in_trouble else dg.AssetCheckSeverity.WARN,
        description="streams" if streams else reason,
        metadata={} if streams else state_metadata(state),
    )


def key_result(audit: TableAudit) -> dg.AssetCheckResult:
    """Return the result of `key_is_unique`.

    DuckDB's tables have no primary key index: the merge keeps keys unique. It counts the rows that each statement finds
    by their keys, and a table where a key is found twice is left out (state `failed`).
    """
    if audit.mode is Mode.CHANGELOG:
        return dg.AssetCheckResult(passed=True, description="mode changelog: one row per change, so keys may repeat")
    if not audit.key:
        return dg.AssetCheckResult(passed=True, description="the table has no key, so equal rows are allowed")
    key = f"key ({', '.join(audit.key)})"
    if audit.duplicated_keys is None:
        return dg.AssetCheckResult(
            passed=True,
            description=f"{key}: each row that was updated or deleted was found once; a run of this check alone "
            f"compares the keys of all {audit.rows:,} rows",
            metadata={"rows": number(audit.rows)},
        )
    return dg.AssetCheckResult(
        passed=not audit.duplicated_keys,
        description=f"{key}: compared in all {audit.rows:,} rows",
        metadata={"rows": number(audit.rows), "duplicated_keys": number(audit.duplicated_keys)},
    )


def quarantine_result(audit: TableAudit) -> dg.AssetCheckResult:
    """Return the result of `quarantine_is_empty`, a warning that names the reasons."""
    count = sum(audit.quarantined.values())
    return dg.AssetCheckResult(
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{reason}: {rows} rows" for reason, rows in audit.quarantined.items())
        or "no row is in quarantine",
        metadata={"quarantined": number(count)},
    )
