"""Settings: what can be configured, read from a mapping such as the environment.

`SETTINGS` is the one list; the environment, the flags of the `dbmazz` command and the table in the README all come
from it. Environment variables are read at the edge only (`Settings.from_env`); everything else is given values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy, Mode, NumericForm
from dbmazz_core.settings.by_table import ByTable, ColumnMasks, ColumnNames, SchemaPolicy
from dbmazz_core.settings.parsers import MEBIBYTE
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.settings.variables import SETTINGS


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where changes come from.

    Attributes:
        url: PostgreSQL URL or `key=value` string, with any libpq option.
        tables: What to capture.
        slot: Replication slot.
        publication: Publication.
        type: Source type; `postgres` is the only one.
        replica_identity: What setup does about tables' replica identity.
        cleanup_on_stop: Drop slot and publication on a graceful stop. For throw-away captures: the next one
            starts with a new snapshot.
        include: Of tables named in it, only these columns are captured; the key's have to be among them.
        exclude: Columns that are not captured.
        masks: Columns whose values are masked before they reach the destination.
        mask_key: Secret that goes into hashes. Never shown.
        as_text: Columns kept as PostgreSQL's text, whatever their type.
        numeric_as: What `numeric` that no DECIMAL holds becomes.
    """

    url: SecretUrl
    tables: tuple[TablePattern, ...]
    slot: str = "dbmazz_slot"
    publication: str = "dbmazz_pub"
    type: str = "postgres"
    replica_identity: ReplicaIdentityPolicy = ReplicaIdentityPolicy.AUTO
    cleanup_on_stop: bool = False
    include: ColumnNames = field(default_factory=ColumnNames)
    exclude: ColumnNames = field(default_factory=ColumnNames)
    masks: ColumnMasks = field(default_factory=ColumnMasks)
    mask_key: str = field(default="", repr=False)
    as_text: ColumnNames = field(default_factory=ColumnNames)
    numeric_as: NumericForm = NumericForm.TEXT


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """Where changes go.

    Attributes:
        url: Path of the DuckDB file (`duckdb:///path` works too).
        type: Sink type; `duckdb` is the only one.
        lock_timeout_s: How long to wait while another process holds the file, in seconds.
        memory_limit: DuckDB's `memory_limit`, in bytes.
    """

    url: str = "dbmazz.duckdb"
    type: str = "duckdb"
    lock_timeout_s: float = 10.0
    memory_limit: int = 1024 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class SnapshotConfig:
    """How tables are copied at first.

    Attributes:
        enabled: Copy the rows that exist before the first change. Without it, tables start empty at the slot's
            position.
        chunk_size: Rows (estimated from the table's pages) that one worker copies at a time.
        parallel_workers: Connections that copy at the same time, all in one exported snapshot.
    """

    enabled: bool = True
    chunk_size: int = 500_000
    parallel_workers: int = 1


@dataclass(frozen=True, slots=True)
class FlushConfig:
    """When a window commits to the destination, always at a source transaction's end.

    Attributes:
        size: Changes after which a flush is due.
        interval_ms: Milliseconds after which received changes are flushed even if fewer.
        max_bytes: Bytes of received messages after which changes are applied, also in the middle of a large
            transaction (committed at its end). Bounds memory.
    """

    size: int = 250_000
    interval_ms: int = 10_000
    max_bytes: int = 32 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """When a window ends before it has caught up; None is no limit. It always ends at a transaction's end."""

    max_changes: int | None = None
    max_bytes: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TableConfig:
    """How tables are kept in the destination; each by table.

    Attributes:
        mode: Mirror, soft delete or changelog.
        on_bad_value: What becomes of rows with values that the destination cannot hold.
        schema_changes: What is done when a table's shape changes in the source.
    """

    mode: ByTable[Mode] = field(default_factory=lambda: ByTable(Mode.MIRROR))
    on_bad_value: ByTable[BadValuePolicy] = field(default_factory=lambda: ByTable(BadValuePolicy.ERROR))
    schema_changes: SchemaPolicy = field(default_factory=SchemaPolicy)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one pipeline, validated.

    >>> Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"}).sink.url
    'dbmazz.duckdb'
    """

    source: SourceConfig
    sink: SinkConfig = field(default_factory=SinkConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    flush: FlushConfig = field(default_factory=FlushConfig)
    limits: WindowLimits = field(default_factory=WindowLimits)
    tables: TableConfig = field(default_factory=TableConfig)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read settings from `env`, by default the process environment.

        Raises:
            ConfigError: If a required variable is missing or any is malformed; `object` names it.
        """
        env = os.environ if env is None else env
        values: dict[str, dict[str, Any]] = {}
        for setting in SETTINGS:
            text = env.get(setting.variable)
            if text is None or (text == "" and not setting.required):
                if setting.required:
                    raise ConfigError(
                        f"{setting.variable} is not set",
                        object=setting.variable,
                        remedy=f"set it in the environment or give {setting.flag}: {setting.help}",
                    )
                continue
            values.setdefault(setting.group, {})[setting.attribute] = setting.parse(setting.variable, text)
        return cls(
            source=SourceConfig(**values.get("source", {})),
            sink=SinkConfig(**values.get("sink", {})),
            snapshot=SnapshotConfig(**values.get("snapshot", {})),
            flush=FlushConfig(**values.get("flush", {})),
            limits=WindowLimits(**values.get("limits", {})),
            tables=TableConfig(**values.get("tables", {})),
        )
