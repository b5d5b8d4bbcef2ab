"""The settings of a pipeline as values.

`Settings.from_env` reads them from a mapping such as the environment. No other code of the package reads environment
variables for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy, LockedPolicy, Mode, NumericForm, TableErrorPolicy
from dbmazz_core.settings.by_table import ByTable, ColumnMasks, ColumnNames, SchemaPolicy
from dbmazz_core.settings.memory import MemoryConfig
from dbmazz_core.settings.parsers import MEBIBYTE
from dbmazz_core.settings.paths import expanded
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.settings.variables import SETTINGS


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """The source: server, tables, slot, and rules for columns.

    Attributes:
        url: PostgreSQL URL or `key=value` string, with any libpq option.
        tables: The captured tables.
        slot: Name of the replication slot.
        publication: Name of the publication; None: the slot gives it its name (`default_publication`), unless the slot
            has begun with another one at the server.
        type: Source type; `postgres` is the only one.
        replica_identity: How setup changes the replica identity of tables.
        cleanup_on_stop: Drop slot and publication on a graceful stop. For temporary captures: the next capture
            begins with a new snapshot.
        binary: Whether the stream may bring values in binary form.
        include: Of the tables named here, only these columns are captured. The columns of the key must be included.
        exclude: Columns that are not captured.
        masks: Columns whose values are masked before they reach the destination.
        mask_key: Secret that is part of every hash of `masks`. It is never shown.
        as_text: Columns that are stored as PostgreSQL's text, whatever their type.
        numeric_as: Destination type of `numeric` columns that do not fit into DECIMAL.
    """

    url: SecretUrl
    tables: tuple[TablePattern, ...]
    slot: str = "dbmazz_slot"
    publication: str | None = None
    type: str = "postgres"
    replica_identity: ReplicaIdentityPolicy = ReplicaIdentityPolicy.AUTO
    cleanup_on_stop: bool = False
    binary: bool = True
    include: ColumnNames = field(default_factory=ColumnNames)
    exclude: ColumnNames = field(default_factory=ColumnNames)
    masks: ColumnMasks = field(default_factory=ColumnMasks)
    mask_key: str = field(default="", repr=False)
    as_text: ColumnNames = field(default_factory=ColumnNames)
    numeric_as: NumericForm = NumericForm.TEXT

    @property
    def publication_name(self) -> str:
        """Name of the publication, in the settings of a source that knows it."""
        assert self.publication is not None, "the source has not been asked for the publication's name"
        return self.publication


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """The destination.

    Attributes:
        url: Path of the DuckDB file (`duckdb:///path` works too). `~` at its beginning is the home directory.
        type: Sink type; `duckdb` is the only one.
        lock_timeout_s: Seconds to wait while another process holds the file.
        when_locked: What a window does that has waited in vain: fail, or end without having applied anything.
        read_copy: Path of a copy for readers that keep it open, which each window publishes; None: there is none.
        read_copy_interval_s: Seconds that a read copy is kept at least, before a window publishes the next one.
        storage_version: The oldest DuckDB that can read a file that is created; an existing file keeps its version.
        memory_limit: DuckDB's `memory_limit`, in bytes; None: a share of `MemoryConfig.limit`, and more for wide rows.
    """

    url: str = "dbmazz.duckdb"
    type: str = "duckdb"
    lock_timeout_s: float = 10.0
    when_locked: LockedPolicy = LockedPolicy.FAIL
    read_copy: str | None = None
    read_copy_interval_s: float = 0.0
    storage_version: str = "v1.5.0"
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", expanded("SINK_URL", self.url))
        if self.read_copy is not None:
            object.__setattr__(self, "read_copy", expanded("SINK_READ_COPY", self.read_copy))
            if Path(str(self.read_copy)).resolve() == Path(self.url).resolve():
                raise ConfigError(
                    f"SINK_READ_COPY and SINK_URL are the same file, {self.url}",
                    object="SINK_READ_COPY",
                    remedy="give the copy a name of its own, such as shop.read.duckdb",
                )


#: Connections that copy at the same time, unless the user wants more: each costs the server a process.
_MOST_WORKERS = 4


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class SnapshotConfig:
    """The snapshot, which copies the rows that exist before the first change.

    Attributes:
        enabled: Copy the existing rows. If False, tables start empty at the slot's position.
        chunk_size: Rows that one worker copies at a time, estimated from the table's pages.
        parallel_workers: Connections that copy a table at the same time, at most; a table has no more than it has
            chunks. All use one exported snapshot. None: the number of processors, but at most four.
    """

    enabled: bool = True
    chunk_size: int = 500_000
    parallel_workers: int | None = None

    @property
    def workers(self) -> int:
        """The number of connections, `parallel_workers` or its default."""
        return self.parallel_workers or min(_processors(), _MOST_WORKERS)


@dataclass(frozen=True, slots=True)
class FlushConfig:
    """The limits at which a window flushes. A flush always ends at the end of a source transaction.

    Attributes:
        size: Flush after this many changes.
        interval_ms: Flush received changes after this many milliseconds, even if there are fewer than `size`.
        max_bytes: Apply changes after this many bytes of received messages, even in the middle of a large
            transaction, which is committed at its end. This bounds memory. None: a share of `MemoryConfig.limit`.
        idle_wal_bytes: Move the checkpoint past WAL without changes of the captured tables only where it is at least
            this many bytes, so that a window without changes does not write to the destination.
    """

    size: int = 250_000
    interval_ms: int = 10_000
    max_bytes: int | None = None
    idle_wal_bytes: int = 16 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class FollowConfig:
    """How `follow` works beyond what windows do.

    Attributes:
        interval_ms: Flush received changes so many milliseconds after the last flush, or at once if it is longer ago.
            `FlushConfig.interval_ms` does not count.
        look_interval_s: Seconds between two looks at what a window looks at only when it starts: new tables, the
            publication, tables that can be tried again, and schema changes that no row change followed.
        retry_timeout_s: Seconds without success, after a connection broke or the file was locked, after which `follow`
            ends with the error; None: it tries again for ever.
        metrics: Host and port at which metrics are served; None: they are not.
    """

    interval_ms: int = 200
    look_interval_s: float = 30.0
    retry_timeout_s: float | None = None
    metrics: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """The limits of a window, which end it before it has caught up. It always ends at the end of a source transaction.

    Attributes:
        max_changes: Row changes, None for no limit.
        max_bytes: Bytes of received messages, None for no limit.
        max_seconds: Seconds, None for no limit.
    """

    max_changes: int | None = None
    max_bytes: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TableConfig:
    """The rules by which tables are kept in the destination. Each value can differ by table.

    Attributes:
        mode: Mirror, soft delete or changelog.
        on_bad_value: Action for rows with values that the destination's type cannot hold.
        schema_changes: Action for each kind of schema change in the source.
        on_error: Whether an error that concerns one table stops the run, or only that table.
    """

    mode: ByTable[Mode] = field(default_factory=lambda: ByTable(Mode.MIRROR))
    on_bad_value: ByTable[BadValuePolicy] = field(default_factory=lambda: ByTable(BadValuePolicy.ERROR))
    schema_changes: SchemaPolicy = field(default_factory=SchemaPolicy)
    on_error: ByTable[TableErrorPolicy] = field(default_factory=lambda: ByTable(TableErrorPolicy.ISOLATE))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one pipeline, validated.

    >>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"})
    >>> settings.sink.url, settings.flush.size
    ('dbmazz.duckdb', 250000)

    Attributes:
        source: Server, tables, slot, and rules for columns.
        sink: The destination.
        snapshot: How existing rows are copied.
        flush: Limits at which a window flushes.
        limits: Limits at which a window ends before it has caught up.
        tables: Rules by which tables are kept in the destination.
        follow: What only `follow` uses.
        memory: The memory of the process, which destination and flushes divide.
    """

    source: SourceConfig
    sink: SinkConfig = field(default_factory=SinkConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    flush: FlushConfig = field(default_factory=FlushConfig)
    limits: WindowLimits = field(default_factory=WindowLimits)
    tables: TableConfig = field(default_factory=TableConfig)
    follow: FollowConfig = field(default_factory=FollowConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Return the settings that `env` holds, by default the environment of the process.

        Raises:
            ConfigError: A required variable is missing, or a variable is malformed; `object` names it.
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
            follow=FollowConfig(**values.get("follow", {})),
            memory=MemoryConfig(**values.get("memory", {})),
        )

    @property
    def flush_limits(self) -> FlushConfig:
        """`flush`, with its share of the memory if `max_bytes` is not set."""
        return replace(self.flush, max_bytes=self.flush.max_bytes or self.memory.flush_bytes)
