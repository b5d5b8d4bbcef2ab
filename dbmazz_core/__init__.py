"""PostgreSQL changes, exact and fast, into DuckDB.

`__all__` is the public API. Each name is imported when it is first used (PEP 562), so that `import dbmazz_core` loads
neither polars nor DuckDB.

>>> from dbmazz_core import Pipeline, Settings
>>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "public.orders"})
>>> Pipeline(settings).capture().changes  # doctest: +SKIP
42
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbmazz_core.connectors.sinks import create_sink
    from dbmazz_core.connectors.sinks.duckdb.reader import Reader, open_reader
    from dbmazz_core.connectors.sinks.duckdb.writer import open_writer
    from dbmazz_core.connectors.sources import create_source
    from dbmazz_core.connectors.sources.postgres import PostgresSource
    from dbmazz_core.engine.follow_status import FollowPhase, FollowStatus
    from dbmazz_core.engine.progress import Progress
    from dbmazz_core.engine.result import PipelineStatus, SnapshotResult, StopReason, TableCounts, WindowResult
    from dbmazz_core.errors import (
        ConfigError,
        DataError,
        DbmazzError,
        DestinationError,
        DestinationLocked,
        ReplicationInterrupted,
        SlotActive,
        SlotError,
        SourceError,
        SourceNotReady,
    )
    from dbmazz_core.lsn import Lsn
    from dbmazz_core.model.batch import ChangeBatch
    from dbmazz_core.model.checkpoint import Checkpoint
    from dbmazz_core.model.datatypes import DataType, Kind
    from dbmazz_core.model.findings import CheckReport, Finding, SetupReport
    from dbmazz_core.model.read_copy import ReadCopy
    from dbmazz_core.model.records import (
        Begin,
        CdcRecord,
        ColumnValue,
        Commit,
        Delete,
        Heartbeat,
        Insert,
        Message,
        SchemaChange,
        SourcePosition,
        Truncate,
        Update,
    )
    from dbmazz_core.model.schema import ColumnDef, TableSchema
    from dbmazz_core.model.sink import Sink, SinkTransaction
    from dbmazz_core.model.source_status import SourceStatus
    from dbmazz_core.model.table_state import TableState
    from dbmazz_core.model.unchanged import UNCHANGED
    from dbmazz_core.pipeline import Pipeline
    from dbmazz_core.settings.config import (
        FlushConfig,
        FollowConfig,
        Settings,
        SinkConfig,
        SnapshotConfig,
        SourceConfig,
        WindowLimits,
    )
    from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
    from dbmazz_core.settings.secret_url import SecretUrl
    from dbmazz_core.settings.tables import TablePattern, parse_tables
    from dbmazz_core.table_ref import TableRef

    __version__: str

#: Module of each public name.
_MODULES: dict[str, tuple[str, ...]] = {
    "connectors.sinks": ("create_sink",),
    "connectors.sinks.duckdb.reader": ("Reader", "open_reader"),
    "connectors.sinks.duckdb.writer": ("open_writer",),
    "connectors.sources": ("create_source",),
    "connectors.sources.postgres": ("PostgresSource",),
    "engine.follow_status": (
        "FollowPhase",
        "FollowStatus",
    ),
    "engine.progress": ("Progress",),
    "engine.result": (
        "PipelineStatus",
        "SnapshotResult",
        "StopReason",
        "TableCounts",
        "WindowResult",
    ),
    "errors": (
        "ConfigError",
        "DataError",
        "DbmazzError",
        "DestinationError",
        "DestinationLocked",
        "ReplicationInterrupted",
        "SlotActive",
        "SlotError",
        "SourceError",
        "SourceNotReady",
    ),
    "lsn": ("Lsn",),
    "model.batch": ("ChangeBatch",),
    "model.checkpoint": ("Checkpoint",),
    "model.datatypes": (
        "DataType",
        "Kind",
    ),
    "model.findings": (
        "CheckReport",
        "Finding",
        "SetupReport",
    ),
    "model.read_copy": ("ReadCopy",),
    "model.records": (
        "Begin",
        "CdcRecord",
        "ColumnValue",
        "Commit",
        "Delete",
        "Heartbeat",
        "Insert",
        "Message",
        "SchemaChange",
        "SourcePosition",
        "Truncate",
        "Update",
    ),
    "model.schema": (
        "ColumnDef",
        "TableSchema",
    ),
    "model.sink": (
        "Sink",
        "SinkTransaction",
    ),
    "model.source_status": ("SourceStatus",),
    "model.table_state": ("TableState",),
    "model.unchanged": ("UNCHANGED",),
    "pipeline": ("Pipeline",),
    "settings.config": (
        "FlushConfig",
        "FollowConfig",
        "Settings",
        "SinkConfig",
        "SnapshotConfig",
        "SourceConfig",
        "WindowLimits",
    ),
    "settings.replica_identity": ("ReplicaIdentityPolicy",),
    "settings.secret_url": ("SecretUrl",),
    "settings.tables": (
        "TablePattern",
        "parse_tables",
    ),
    "table_ref": ("TableRef",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "UNCHANGED",
    "Begin",
    "CdcRecord",
    "ChangeBatch",
    "CheckReport",
    "Checkpoint",
    "ColumnDef",
    "ColumnValue",
    "Commit",
    "ConfigError",
    "DataError",
    "DataType",
    "DbmazzError",
    "Delete",
    "DestinationError",
    "DestinationLocked",
    "Finding",
    "FlushConfig",
    "FollowConfig",
    "FollowPhase",
    "FollowStatus",
    "Heartbeat",
    "Insert",
    "Kind",
    "Lsn",
    "Message",
    "Pipeline",
    "PipelineStatus",
    "PostgresSource",
    "Progress",
    "ReadCopy",
    "Reader",
    "ReplicaIdentityPolicy",
    "ReplicationInterrupted",
    "SchemaChange",
    "SecretUrl",
    "Settings",
    "SetupReport",
    "Sink",
    "SinkConfig",
    "SinkTransaction",
    "SlotActive",
    "SlotError",
    "SnapshotConfig",
    "SnapshotResult",
    "SourceConfig",
    "SourceError",
    "SourceNotReady",
    "SourcePosition",
    "SourceStatus",
    "StopReason",
    "TableCounts",
    "TablePattern",
    "TableRef",
    "TableSchema",
    "TableState",
    "Truncate",
    "Update",
    "WindowLimits",
    "WindowResult",
    "__version__",
    "create_sink",
    "create_source",
    "open_reader",
    "open_writer",
    "parse_tables",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        value: Any = metadata.version("dbmazz")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"dbmazz_core.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next access does not call __getattr__
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
