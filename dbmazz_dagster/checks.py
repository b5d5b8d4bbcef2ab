"""The check of the checkpoint's asset: the server keeps the WAL that the slot needs."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from dbmazz_core.model.source_status import SourceStatus
from dbmazz_dagster.failures import dbmazz_failures
from dbmazz_dagster.resource import DbmazzResource
from dbmazz_dagster.translator import DagsterDbmazzTranslator

#: Name of the check on the checkpoint asset; the sensor evaluates it as well.
SLOT_HEALTH: Final = "slot_health"
#: Bytes of WAL that the slot may retain before the check warns.
MAX_LAG_BYTES: Final = 1 << 30


def build_dbmazz_checks(
    resource: DbmazzResource,
    *,
    translator: DagsterDbmazzTranslator | None = None,
    max_lag_bytes: int = MAX_LAG_BYTES,
) -> list[dg.AssetChecksDefinition]:
    """Return the check `slot_health` of the checkpoint's asset. The checks of tables belong to `@dbmazz_assets`.

    >>> shop = DbmazzResource(source_url="postgres://localhost/shop", tables="orders")
    >>> [key.to_user_string() for check in build_dbmazz_checks(shop) for key in check.check_keys]
    ['dbmazz/dbmazz_slot:slot_health']

    Args:
        resource: The capture.
        translator: The translator that the assets have.
        max_lag_bytes: Bytes of WAL that the slot may retain before `slot_health` warns.

    Raises:
        ConfigError: `slot` is malformed.
    """
    translator = translator or DagsterDbmazzTranslator()
    return [_slot_check(resource, translator.get_checkpoint_spec(resource.slot_name).key, max_lag_bytes)]


def _slot_check(resource: DbmazzResource, key: dg.AssetKey, max_lag_bytes: int) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=key, name=SLOT_HEALTH, description="The server keeps all WAL that the slot needs.")
    def slot_health(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with dbmazz_failures(context):
            health = assess_slot(resource.pipeline().source_status(), max_lag_bytes)
        return dg.AssetCheckResult(
            passed=health.passed,
            severity=health.severity,
            description=health.description,
            metadata=health.metadata,
        )

    return slot_health


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """The result of the check `slot_health`."""

    passed: bool
    severity: dg.AssetCheckSeverity
    description: str
    metadata: dict[str, Any]

    def evaluation(self, checkpoint: dg.AssetKey) -> dg.AssetCheckEvaluation:
        """Return the result as an event that needs no run."""
        return dg.AssetCheckEvaluation(
            asset_key=checkpoint,
            check_name=SLOT_HEALTH,
            passed=self.passed,
            severity=self.severity,
            description=self.description,
            metadata=self.metadata,
        )


def assess_slot(status: SourceStatus, max_lag_bytes: int) -> SlotHealth:
    """Return whether the next window can read the slot: the slot exists, and the server keeps the WAL that it needs.

    An inactive slot passes: between two windows no process reads it. The check warns if the slot retains more than
    `max_lag_bytes` of WAL, and fails if the server has removed or may soon remove WAL that the slot needs
    (`wal_status`; PostgreSQL manual, view pg_replication_slots).
    """
    lag = status.server_lsn - status.confirmed_lsn if status.confirmed_lsn is not None else 0
    description, severity = "the server keeps all WAL that the slot needs", None
    if not status.slot_exists:
        description, severity = f"slot {status.slot} does not exist", dg.AssetCheckSeverity.ERROR
    elif status.wal_status == "lost":
        description = "the server has removed WAL that the slot needs: run dbmazz snapshot"
        severity = dg.AssetCheckSeverity.ERROR
    elif status.wal_status == "unreserved":
        description = "the server may remove WAL that the slot needs at the server's next checkpoint: run a window now"
        severity = dg.AssetCheckSeverity.ERROR
    elif lag > max_lag_bytes:
        description, severity = f"the slot retains {lag} bytes of WAL", dg.AssetCheckSeverity.WARN
    return SlotHealth(
        passed=severity is None,
        severity=severity or dg.AssetCheckSeverity.ERROR,
        description=description,
        metadata=_slot_metadata(status, lag),
    )


def _slot_metadata(status: SourceStatus, lag: int) -> dict[str, Any]:
    figures: Sequence[tuple[str, Any]] = (
        ("lag_bytes", float(lag)),
        ("restart_lag_bytes", None if status.restart_lag_bytes is None else float(status.restart_lag_bytes)),
        ("active", status.slot_active),
        ("active_pid", status.active_pid),
        ("wal_status", status.wal_status),
        ("confirmed_lsn", str(status.confirmed_lsn) if status.confirmed_lsn is not None else None),
        ("server_lsn", str(status.server_lsn)),
    )
    return {name: value for name, value in figures if value is not None}
