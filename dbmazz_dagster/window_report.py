"""What a finished window reports to Dagster: materializations, observations, checks and log messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.model.table_audit import TableAudit
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.captured_assets import CapturedAssets
from dbmazz_dagster.metadata import checkpoint_metadata, column_schema, state_metadata, table_metadata
from dbmazz_dagster.owed import DATA_VERSION_TAG, changed_lsn, owed_tables
from dbmazz_dagster.run_config import Unchanged
from dbmazz_dagster.table_checks import key_result, quarantine_result, streaming_result
from dbmazz_dagster.tags import IS_STREAMING, KEY_UNIQUE, QUARANTINE_EMPTY

if TYPE_CHECKING:
    from dbmazz_core.pipeline import Pipeline

#: Rows of a table up to which a window compares all keys. Beyond, only a run of the check alone does.
_COMPARED_ROWS = 1_000_000


class WindowReport:
    """The events, checks and log messages of a finished window. What it needs of the destination is read now."""

    def __init__(
        self,
        pipeline: Pipeline,
        context: dg.AssetExecutionContext,
        assets: CapturedAssets,
        result: WindowResult,
        unchanged: Unchanged,
    ) -> None:
        self._pipeline = pipeline
        self._context = context
        self._assets = assets
        self._result = result
        self._owed = owed_tables(context.instance, assets.tables, result.states)
        self._materialized: list[TableRef] = []
        self._without_changes: list[TableRef] = []
        self._choose(unchanged)
        self._observed = self._without_changes if unchanged == "observe" else []
        self._checked_alone = self._tables_of_selected_checks()
        self._audits = self._audit()

    def _choose(self, unchanged: Unchanged) -> None:
        """Choose the tables that are materialized, and those that were selected and have no changes."""
        context, result = self._context, self._result
        for table in sorted({*result.tables, *self._owed}):
            key, state = self._assets.tables.get(table), result.states.get(table)
            if key is None:
                context.log.warning(f"{table} was captured, but has no asset: reload the definitions")
                continue
            selected = key in context.selected_asset_keys and (state is None or state.state is TableStatus.STREAMING)
            changed = table in self._owed or _has_changes(result.tables.get(table, TableCounts()))
            if changed or (selected and unchanged == "materialize"):
                self._materialized.append(table)
            elif selected:
                self._without_changes.append(table)

    def _tables_of_selected_checks(self) -> list[TableRef]:
        """Return the tables of which a check is selected and the asset is not: somebody runs the check alone."""
        context = self._context
        keys = {check.asset_key for check in context.selected_asset_check_keys}.difference(context.selected_asset_keys)
        return sorted(table for table, key in self._assets.tables.items() if key in keys)

    def _audit(self) -> dict[TableRef, TableAudit]:
        """Read the facts about the rows of the tables that are reported.

        The window is committed: an error while they are read must not fail the run.
        """
        found: dict[TableRef, TableAudit] = {}
        try:
            if tables := {*self._materialized, *self._observed}.difference(self._checked_alone):
                found |= self._pipeline.audit(sorted(tables), max_rows=_COMPARED_ROWS)
            if self._checked_alone:
                found |= self._pipeline.audit(self._checked_alone)
        except DbmazzError as error:
            self._context.log.warning(f"row counts and keys are not available: {error}")
        return found

    def events(self) -> Iterator[dg.MaterializeResult[Any]]:
        """Yield the materializations of tables that changed or were selected, and of the checkpoint."""
        context, result = self._context, self._result
        metadata = self._metadata([*self._materialized, *self._observed])
        for table in self._materialized:
            state = result.states.get(table)
            lsn = None if state is None else changed_lsn(state)
            version = None if lsn is None else dg.DataVersion(str(lsn))
            key = self._assets.tables[table]
            yield dg.MaterializeResult(asset_key=key, metadata=metadata[table], data_version=version)
            if lsn is not None and (source := self._assets.sources.get(table)) is not None:
                # Without a data version: Dagster would record it with the next materialization, but compare it with the
                # source's materializations only, and show the table as unsynced.
                context.log_event(dg.AssetObservation(source, metadata={"last_change_lsn": str(lsn)}))
        for table in self._observed:
            context.log_event(dg.AssetObservation(self._assets.tables[table], metadata=metadata[table]))
        if self._without_changes:
            names = ", ".join(map(str, self._without_changes))
            context.log.info(f"no changes up to LSN {result.end_lsn}: {names}")
        self._log()
        if self._assets.checkpoint is not None and result.end_lsn > INVALID_LSN:
            yield dg.MaterializeResult(asset_key=self._assets.checkpoint, metadata=checkpoint_metadata(result))

    def _log(self) -> None:
        """Log what the result tells beside its counts."""
        log, result = self._context.log, self._result
        for warning in result.warnings:
            log.warning(warning)
        if result.postponed is not None:
            log.warning(f"postponed: {result.postponed}")
        if result.read_copy is not None and (error := result.read_copy.error) is not None:
            log.error(f"{error.what}; what to do: {error.remedy}")
        for sentence in result.schema_changes:
            log.info(sentence)
        for table, reason in sorted(result.copy_anew.items()):
            log.warning(f"{table} {reason}: re-snapshotted")
        if result.stop_reason is not StopReason.CAUGHT_UP:
            log.info(f"stopped before it caught up ({result.stop_reason.value}): lag {result.lag_bytes} bytes")

    def _metadata(self, tables: Sequence[TableRef]) -> dict[TableRef, dict[str, Any]]:
        """Return the metadata of tables, with row counts and columns, which are read for these tables only."""
        if not tables:
            return {}
        schemas: Mapping[TableRef, dg.TableSchema] = {}
        try:
            schemas = {described.table: column_schema(described) for described in self._pipeline.tables(tables)}
        except DbmazzError as error:
            self._context.log.warning(f"columns are not available: {error}")
        found: dict[TableRef, dict[str, Any]] = {}
        for table in tables:
            state, audit = self._result.states.get(table), self._audits.get(table)
            if state is not None:
                state = replace(state, rows=None if audit is None else audit.rows)
            counts = self._result.tables.get(table, TableCounts())
            found[table] = table_metadata(self._result, counts, state, schemas.get(table))
        return found

    def checks(self) -> Iterator[dg.AssetCheckResult]:
        """Yield the checks of tables that have changed, that do not stream, or whose checks are run alone.

        Tables that do not stream also get an observation, and a message in the log.
        """
        for table, state in sorted(self._result.states.items()):
            key, streams = self._assets.tables.get(table), state.state is TableStatus.STREAMING
            if key is None:
                continue
            if not streams:
                self._report_trouble(key, state, str(streaming_result(state).description))
            changed = table in self._materialized
            if changed or not streams or table in self._checked_alone:
                yield from self._of_asset(key, IS_STREAMING, streaming_result(state))
            if (audit := self._audits.get(table)) is not None and streams and table not in self._observed:
                yield from self._of_asset(key, KEY_UNIQUE, key_result(audit))
                yield from self._of_asset(key, QUARANTINE_EMPTY, quarantine_result(audit))

    def _of_asset(self, key: dg.AssetKey, name: str, result: dg.AssetCheckResult) -> Iterator[dg.AssetCheckResult]:
        """Yield a check for an asset, if the asset has it; log it where the run did not select it."""
        check = dg.AssetCheckKey(key, name)
        if check in self._context.selected_asset_check_keys:
            yield result._replace(asset_key=key, check_name=name)
        elif check in self._assets.checks:
            self._context.log_event(
                dg.AssetCheckEvaluation(
                    asset_key=key,
                    check_name=name,
                    passed=result.passed,
                    severity=result.severity,
                    description=result.description,
                    metadata=result.metadata,
                )
            )

    def _report_trouble(self, key: dg.AssetKey, state: TableState, reason: str) -> None:
        log = self._context.log.error if state.is_in_trouble else self._context.log.warning
        log(f"{state.table} is {state.state.value}: {reason}")
        self._context.log_event(dg.AssetObservation(key, metadata=state_metadata(state), description=reason))


def _has_changes(counts: TableCounts) -> bool:
    return bool(counts.changes or counts.truncates or counts.snapshot_rows is not None)


def as_materialization(event: dg.MaterializeResult[Any]) -> dg.AssetMaterialization:
    """Return a materialization as an event that can be logged where the asset is not selected."""
    if event.asset_key is None:
        raise ValueError("an event without an asset key")
    version = event.data_version
    tags = None if version is None else {DATA_VERSION_TAG: version.value}
    return dg.AssetMaterialization(event.asset_key, metadata=event.metadata, tags=tags)
