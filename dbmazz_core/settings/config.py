"""Settings: what can be configured, read from a mapping such as the environment.

`SETTINGS` is the one list; the environment, the flags of the `dbmazz` command and the table in the README all come
from it. Environment variables are read at the edge only (`Settings.from_env`); everything else is given values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy, Mode, NumericForm
from dbmazz_core.settings.by_table import (
    ByTable,
    ColumnMasks,
    ColumnNames,
    SchemaPolicy,
    by_table,
    column_masks,
    column_names,
    schema_policy,
)
from dbmazz_core.settings.readers import (
    MEBIBYTE,
    boolean,
    byte_size,
    duckdb_path,
    identifier,
    one_of,
    seconds,
    slot_name,
    whole,
)
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import TablePattern, parse_tables


class ReplicaIdentityPolicy(StrEnum):
    """What setup does about tables' replica identity."""

    AUTO = "auto"  #: leave tables that have a usable key alone, FULL for the others
    FULL = "full"  #: FULL for all: deletes and updates carry the whole old row
    LEAVE = "leave"  #: never touch


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
            values.setdefault(setting.group, {})[setting.attribute] = setting.read(setting.variable, text)
        return cls(
            source=SourceConfig(**values.get("source", {})),
            sink=SinkConfig(**values.get("sink", {})),
            snapshot=SnapshotConfig(**values.get("snapshot", {})),
            flush=FlushConfig(**values.get("flush", {})),
            limits=WindowLimits(**values.get("limits", {})),
            tables=TableConfig(**values.get("tables", {})),
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its variable, its flag and how its text is read.

    Attributes:
        variable: Environment variable.
        group: Attribute of `Settings` it belongs to.
        attribute: Attribute of that group.
        read: Turns (variable, text) into the value, or raises ConfigError.
        default: As documentation shows it.
        help: One sentence.
    """

    variable: str
    group: str
    attribute: str
    read: Callable[[str, str], Any]
    default: str
    help: str
    required: bool = False
    short_flag: str | None = None

    @property
    def flag(self) -> str:
        """The command line's flag."""
        return self.short_flag or "--" + self.variable.lower().replace("_", "-")


def _replica_identity(variable: str, text: str) -> ReplicaIdentityPolicy:
    return ReplicaIdentityPolicy(one_of(*ReplicaIdentityPolicy)(variable, text))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "SOURCE_URL",
        "source",
        "url",
        lambda v, t: SecretUrl(t, variable=v),
        "",
        "PostgreSQL URL, any libpq option",
        required=True,
    ),
    Setting(
        "TABLES",
        "source",
        "tables",
        lambda _v, t: parse_tables(t),
        "",
        "comma-separated `schema.table`; quoted names and `schema.*` work",
        required=True,
    ),
    Setting("SOURCE_TYPE", "source", "type", one_of("postgres"), "postgres", "source type"),
    Setting("SOURCE_SLOT_NAME", "source", "slot", slot_name, "dbmazz_slot", "replication slot", short_flag="--slot"),
    Setting(
        "SOURCE_PUBLICATION_NAME",
        "source",
        "publication",
        identifier,
        "dbmazz_pub",
        "publication",
        short_flag="--publication",
    ),
    Setting(
        "REPLICA_IDENTITY",
        "source",
        "replica_identity",
        _replica_identity,
        "auto",
        "`auto`: FULL where a table has no key; `full`: FULL for all; `leave`: never touched",
    ),
    Setting(
        "CLEANUP_ON_STOP",
        "source",
        "cleanup_on_stop",
        boolean,
        "false",
        "drop slot and publication on a graceful stop (throw-away captures only)",
    ),
    Setting(
        "COLUMNS_INCLUDE",
        "source",
        "include",
        column_names,
        "none",
        "`schema.table.column, ...`: of tables named here only these columns are captured",
    ),
    Setting("COLUMNS_EXCLUDE", "source", "exclude", column_names, "none", "`schema.table.column, ...`: not captured"),
    Setting(
        "COLUMNS_MASK",
        "source",
        "masks",
        column_masks,
        "none",
        "`schema.table.column=hash`, `=null` or `=truncate:3`, ...: masked before anything reaches the destination",
    ),
    Setting("MASK_KEY", "source", "mask_key", lambda _v, t: t, "none", "secret that goes into every hash"),
    Setting(
        "COLUMNS_AS_TEXT",
        "source",
        "as_text",
        column_names,
        "none",
        "`schema.table.column, ...`: kept as PostgreSQL's text",
    ),
    Setting(
        "NUMERIC_AS",
        "source",
        "numeric_as",
        lambda v, t: NumericForm(one_of(*NumericForm)(v, t)),
        "text",
        "what `numeric` without precision or beyond 38 digits becomes: `text` or `double`",
    ),
    Setting(
        "MODE",
        "tables",
        "mode",
        lambda v, t: by_table(v, t, Mode),
        "mirror",
        "`mirror`, `soft_delete` or `changelog`, and exceptions: `mirror, public.audit=changelog`",
    ),
    Setting(
        "ON_BAD_VALUE",
        "tables",
        "on_bad_value",
        lambda v, t: by_table(v, t, BadValuePolicy),
        "error",
        "rows with values that DuckDB cannot hold: `error` or `quarantine`, and exceptions as in MODE",
    ),
    Setting(
        "SCHEMA_CHANGES",
        "tables",
        "schema_changes",
        schema_policy,
        "apply",
        "`apply`, `ignore` or `stop`, and exceptions: `apply, drop_column=ignore, public.orders:change_type=stop`",
    ),
    Setting("SINK_TYPE", "sink", "type", one_of("duckdb"), "duckdb", "destination type"),
    Setting("SINK_URL", "sink", "url", duckdb_path, "dbmazz.duckdb", "path of the DuckDB file"),
    Setting(
        "SINK_LOCK_TIMEOUT_S",
        "sink",
        "lock_timeout_s",
        seconds,
        "10",
        "seconds to wait while another process holds the file",
    ),
    Setting("SINK_MEMORY_LIMIT", "sink", "memory_limit", byte_size, "1GB", "DuckDB's `memory_limit`"),
    Setting("FLUSH_SIZE", "flush", "size", whole(1), "250000", "changes after which a flush is due"),
    Setting("FLUSH_INTERVAL_MS", "flush", "interval_ms", whole(1), "10000", "milliseconds after which a flush is due"),
    Setting(
        "FLUSH_MAX_BYTES",
        "flush",
        "max_bytes",
        byte_size,
        "32MB",
        "bytes received after which changes are applied; bounds memory",
    ),
    Setting("DO_SNAPSHOT", "snapshot", "enabled", boolean, "true", "copy existing rows at first"),
    Setting("SNAPSHOT_CHUNK_SIZE", "snapshot", "chunk_size", whole(1), "500000", "rows that a worker copies at a time"),
    Setting(
        "SNAPSHOT_PARALLEL_WORKERS",
        "snapshot",
        "parallel_workers",
        whole(1, 64),
        "1",
        "connections that copy at the same time",
    ),
    Setting(
        "WINDOW_MAX_CHANGES",
        "limits",
        "max_changes",
        whole(1),
        "none",
        "changes after which a window ends",
        short_flag="--max-changes",
    ),
    Setting(
        "WINDOW_MAX_BYTES",
        "limits",
        "max_bytes",
        byte_size,
        "none",
        "bytes received after which a window ends",
        short_flag="--max-bytes",
    ),
    Setting(
        "WINDOW_MAX_SECONDS",
        "limits",
        "max_seconds",
        seconds,
        "none",
        "seconds after which a window ends",
        short_flag="--max-seconds",
    ),
)
