"""The list of all settings, with their variables, flags and defaults.

The environment variables, the flags of the `dbmazz` command, the keys of its file, the fields of Dagster's resource and
the table in the README come from `SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbmazz_core.model.policies import BadValuePolicy, LockedPolicy, Mode, NumericForm, TableErrorPolicy
from dbmazz_core.settings.by_table import parse_by_table, parse_column_masks, parse_column_names, parse_schema_policy
from dbmazz_core.settings.parsers import (
    address,
    boolean,
    byte_size,
    duckdb_path,
    identifier,
    one_of,
    seconds,
    slot_name,
    storage_version,
    whole_number,
)
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        variable: Environment variable.
        group: Attribute of `Settings` that the setting belongs to.
        attribute: Attribute of that group.
        parse: Function of (variable, text) that returns the value, or raises ConfigError.
        default: The default as text, for documentation.
        help: Description for `--help` and the documents.
        required: Whether the setting has no default.
        short_flag: The flag, if it is not `--` and the variable in lower case.
    """

    variable: str
    group: str
    attribute: str
    parse: Callable[[str, str], Any]
    default: str
    help: str
    required: bool = False
    short_flag: str | None = None

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return self.short_flag or "--" + self.variable.lower().replace("_", "-")


def _replica_identity(variable: str, text: str) -> ReplicaIdentityPolicy:
    return ReplicaIdentityPolicy(one_of(*ReplicaIdentityPolicy)(variable, text))


def _locked_policy(variable: str, text: str) -> LockedPolicy:
    return LockedPolicy(one_of(*LockedPolicy)(variable, text))


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "SOURCE_URL",
        "source",
        "url",
        lambda v, t: SecretUrl(t, variable=v),
        "",
        "PostgreSQL connection URL or `key=value` string, with any libpq option",
        required=True,
    ),
    Setting(
        "TABLES",
        "source",
        "tables",
        lambda _v, t: parse_tables(t),
        "",
        "tables to capture: comma-separated `schema.table`; quoted names and `schema.*` work",
        required=True,
    ),
    Setting("SOURCE_TYPE", "source", "type", one_of("postgres"), "postgres", "source type; only `postgres`"),
    Setting("SOURCE_SLOT_NAME", "source", "slot", slot_name, "dbmazz_slot", "replication slot", short_flag="--slot"),
    Setting(
        "SOURCE_PUBLICATION_NAME",
        "source",
        "publication",
        identifier,
        "from the slot",
        "publication; without it `shop_pub` for slot `shop` or `shop_slot`, unless the slot began with `dbmazz_pub`",
        short_flag="--publication",
    ),
    Setting(
        "REPLICA_IDENTITY",
        "source",
        "replica_identity",
        _replica_identity,
        "auto",
        "`auto`: set FULL on tables without a usable key; `full`: set FULL on all tables; `leave`: change none",
    ),
    Setting(
        "CLEANUP_ON_STOP",
        "source",
        "cleanup_on_stop",
        boolean,
        "false",
        "drop slot and publication on a graceful stop; the next capture begins with a new snapshot",
    ),
    Setting(
        "SOURCE_BINARY",
        "source",
        "binary",
        boolean,
        "true",
        "let the server send values in binary form where that is exact for all captured columns; `false`: as text",
    ),
    Setting(
        "COLUMNS_INCLUDE",
        "source",
        "include",
        parse_column_names,
        "none",
        "`schema.table.column, ...`: of the tables named here, only these columns are captured",
    ),
    Setting(
        "COLUMNS_EXCLUDE",
        "source",
        "exclude",
        parse_column_names,
        "none",
        "`schema.table.column, ...`: columns that are not captured",
    ),
    Setting(
        "COLUMNS_MASK",
        "source",
        "masks",
        parse_column_masks,
        "none",
        "`schema.table.column=hash`, `=null` or `=truncate:3`, ...: values masked before they reach the destination",
    ),
    Setting(
        "MASK_KEY", "source", "mask_key", lambda _v, t: t, "none", "secret that is part of every hash of `COLUMNS_MASK`"
    ),
    Setting(
        "COLUMNS_AS_TEXT",
        "source",
        "as_text",
        parse_column_names,
        "none",
        "`schema.table.column, ...`: columns stored as PostgreSQL's text",
    ),
    Setting(
        "NUMERIC_AS",
        "source",
        "numeric_as",
        lambda v, t: NumericForm(one_of(*NumericForm)(v, t)),
        "text",
        "destination type of `numeric` without precision or with more than 38 digits: `text` or `double`",
    ),
    Setting(
        "MODE",
        "tables",
        "mode",
        lambda v, t: parse_by_table(v, t, Mode),
        "mirror",
        "`mirror`, `soft_delete` or `changelog`; exceptions by table: `mirror, public.audit=changelog`",
    ),
    Setting(
        "ON_BAD_VALUE",
        "tables",
        "on_bad_value",
        lambda v, t: parse_by_table(v, t, BadValuePolicy),
        "error",
        "action for rows with values that DuckDB cannot hold: `error` or `quarantine`; exceptions as in `MODE`",
    ),
    Setting(
        "SCHEMA_CHANGES",
        "tables",
        "schema_changes",
        parse_schema_policy,
        "apply",
        "`apply`, `ignore` or `stop`; exceptions: `apply, drop_column=ignore, public.orders:change_type=stop`",
    ),
    Setting(
        "ON_TABLE_ERROR",
        "tables",
        "on_error",
        lambda v, t: parse_by_table(v, t, TableErrorPolicy),
        "isolate",
        "`isolate`: a table in trouble keeps its rows and the others go on; `stop`: it stops the run; exceptions as in "
        "`MODE`",
    ),
    Setting("SINK_TYPE", "sink", "type", one_of("duckdb"), "duckdb", "destination type; only `duckdb`"),
    Setting(
        "SINK_URL", "sink", "url", duckdb_path, "dbmazz.duckdb", "path of the DuckDB file; `~` is the home directory"
    ),
    Setting(
        "SINK_LOCK_TIMEOUT_S",
        "sink",
        "lock_timeout_s",
        seconds,
        "10",
        "seconds to wait while another process holds the DuckDB file",
    ),
    Setting(
        "SINK_WHEN_LOCKED",
        "sink",
        "when_locked",
        _locked_policy,
        "fail",
        "a window that has waited in vain: `fail`, or `skip`: end as `postponed`, without having applied anything",
    ),
    Setting(
        "SINK_READ_COPY",
        "sink",
        "read_copy",
        duckdb_path,
        "none",
        "path of a copy of the DuckDB file for readers that keep it open; each window replaces it as a whole",
    ),
    Setting(
        "SINK_READ_COPY_INTERVAL_S",
        "sink",
        "read_copy_interval_s",
        seconds,
        "0",
        "seconds that a read copy is kept at least before the next one",
    ),
    Setting(
        "SINK_STORAGE_VERSION",
        "sink",
        "storage_version",
        storage_version,
        "v1.5.0",
        "the oldest DuckDB that can read a new file, or `latest`; an existing file keeps its own (`dbmazz rewrite`)",
    ),
    Setting(
        "MEMORY_LIMIT",
        "memory",
        "limit",
        byte_size,
        "512MB",
        "memory of a capture, at least 320MB, which DuckDB and flushes divide; rows of more than 15 kB take more",
    ),
    Setting(
        "SINK_MEMORY_LIMIT",
        "sink",
        "memory_limit",
        byte_size,
        "a share",
        "DuckDB's `memory_limit`; without it 124MB of a `MEMORY_LIMIT` of 512MB, and up to 1GB for wide rows",
    ),
    Setting("FLUSH_SIZE", "flush", "size", whole_number(1), "250000", "flush after this many changes"),
    Setting(
        "FLUSH_INTERVAL_MS", "flush", "interval_ms", whole_number(1), "10000", "flush after this many milliseconds"
    ),
    Setting(
        "FLUSH_MAX_BYTES",
        "flush",
        "max_bytes",
        byte_size,
        "a share",
        "apply changes after this many received bytes; without it 31MB of a `MEMORY_LIMIT` of 512MB",
    ),
    Setting(
        "FLUSH_IDLE_WAL_BYTES",
        "flush",
        "idle_wal_bytes",
        byte_size,
        "16MB",
        "move the checkpoint past WAL without changes of the captured tables once it is this much",
    ),
    Setting("DO_SNAPSHOT", "snapshot", "enabled", boolean, "true", "copy the rows that exist before the first change"),
    Setting(
        "SNAPSHOT_CHUNK_SIZE",
        "snapshot",
        "chunk_size",
        whole_number(1),
        "500000",
        "rows that a worker copies at a time",
    ),
    Setting(
        "SNAPSHOT_PARALLEL_WORKERS",
        "snapshot",
        "parallel_workers",
        whole_number(1, 64),
        "processors, at most 4",
        "connections that copy one table at the same time",
    ),
    Setting(
        "WINDOW_MAX_CHANGES",
        "limits",
        "max_changes",
        whole_number(1),
        "none",
        "end the window after this many changes",
        short_flag="--max-changes",
    ),
    Setting(
        "WINDOW_MAX_BYTES",
        "limits",
        "max_bytes",
        byte_size,
        "none",
        "end the window after this many received bytes",
        short_flag="--max-bytes",
    ),
    Setting(
        "WINDOW_MAX_SECONDS",
        "limits",
        "max_seconds",
        seconds,
        "none",
        "end the window after this many seconds",
        short_flag="--max-seconds",
    ),
    Setting(
        "FOLLOW_INTERVAL_MS",
        "follow",
        "interval_ms",
        whole_number(1),
        "200",
        "`follow`: milliseconds from one flush to the next while changes come",
    ),
    Setting(
        "FOLLOW_LOOK_INTERVAL_S",
        "follow",
        "look_interval_s",
        seconds,
        "30",
        "`follow`: seconds between two looks for new tables, and for tables that can be tried again",
    ),
    Setting(
        "FOLLOW_RETRY_TIMEOUT_S",
        "follow",
        "retry_timeout_s",
        seconds,
        "none",
        "`follow`: end with the error after this many seconds without success; without it, try again for ever",
    ),
    Setting(
        "METRICS",
        "follow",
        "metrics",
        address,
        "none",
        "`follow`: serve Prometheus metrics, health and readiness at this `host:port`, such as `127.0.0.1:9187`",
    ),
)
