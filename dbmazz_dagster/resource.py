"""The resource: the settings of a capture as Dagster configuration, and the window that assets run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, field_validator

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import Settings, SourceConfig
from dbmazz_core.settings.tables import TablePattern, format_tables, parse_tables
from dbmazz_core.settings.variables import SETTINGS, Setting
from dbmazz_dagster import secret_fields
from dbmazz_dagster.failures import dbmazz_failures
from dbmazz_dagster.run_config import DbmazzConfig, Unchanged
from dbmazz_dagster.tags import SLOT_TAG
from dbmazz_dagster.window import run_window

if TYPE_CHECKING:
    from dbmazz_core.pipeline import Pipeline

#: The settings that windows use.
_BY_FIELD: dict[str, Setting] = {
    s.flag.removeprefix("--").replace("-", "_"): s for s in SETTINGS if s.group != "follow"
}


class DbmazzResource(dg.ConfigurableResource["DbmazzResource"]):
    """One capture: a PostgreSQL source, its tables, a slot, and the DuckDB file that they are replicated into.

    Every setting of windows is a field with the name of its flag, the same default and the same parser: a
    malformed value raises the same `ConfigError`.

        import dagster as dg
        from dbmazz_dagster import DbmazzResource

        shop = DbmazzResource(
            source_url=dg.EnvVar("SOURCE_URL"),
            tables="public.orders, public.customers",
            sink_url="shop.duckdb",
        )

    Give `source_url` as `EnvVar`: Dagster's UI then shows the name of the variable. A URL as text works too; its
    password is redacted in the field.

    >>> DbmazzResource(source_url="postgres://app:s3cret@db/shop", tables="orders").source_url
    'postgres://app:***@db/shop'
    """

    source_url: str = Field(
        description="PostgreSQL connection URL or `key=value` string, with any libpq option. Give it as EnvVar."
    )
    tables: str = Field(
        description="Tables to capture: comma-separated `schema.table`; quoted names and `schema.*` work."
    )
    source_type: str = Field(default="postgres", description="Source type; only `postgres`.")
    slot: str = Field(default="dbmazz_slot", description="Replication slot.")
    publication: str | None = Field(default=None, description="Publication; without it, named after the slot.")
    replica_identity: str = Field(
        default="auto", description="Replica identities that setup sets: `auto`, `full` or `leave` (change none)."
    )
    cleanup_on_stop: bool = Field(default=False, description="Drop slot and publication on a graceful stop.")
    source_binary: bool = Field(
        default=True, description="Let the server send values in binary form where that is exact for all columns."
    )
    columns_include: str | None = Field(
        default=None, description="Of the tables named here, only these columns are captured."
    )
    columns_exclude: str | None = Field(default=None, description="Columns that are not captured.")
    columns_mask: str | None = Field(default=None, description="Masks by column: `users.email=hash`.")
    mask_key: str | None = Field(
        default=None, description="Secret that is part of every hash of `columns_mask`. Give it as EnvVar."
    )
    columns_as_text: str | None = Field(default=None, description="Columns stored as PostgreSQL's text.")
    numeric_as: str = Field(
        default="text", description="Destination type of numeric that does not fit into DECIMAL: `text` or `double`."
    )
    mode: str = Field(
        default="mirror", description="`mirror`, `soft_delete` or `changelog`; exceptions by table: `audit=changelog`."
    )
    on_bad_value: str = Field(
        default="error",
        description="Action for rows with values that DuckDB cannot hold: `error`, `quarantine`; exceptions by table.",
    )
    schema_changes: str = Field(
        default="apply", description="`apply`, `ignore` or `stop`; exceptions by kind of change and by table."
    )
    on_table_error: str = Field(
        default="isolate",
        description="`isolate`: a table in trouble keeps its rows and the others go on; `stop`; exceptions by table.",
    )
    sink_type: str = Field(default="duckdb", description="Destination type; only `duckdb`.")
    sink_url: str = Field(default="dbmazz.duckdb", description="Path of the DuckDB file.")
    sink_lock_timeout_s: float = Field(
        default=10.0, description="Seconds to wait while another process holds the DuckDB file."
    )
    sink_when_locked: str = Field(
        default="fail", description="A window that has waited in vain: `fail`, or `skip` (end without a failure)."
    )
    sink_read_copy: str | None = Field(
        default=None, description="Path of a copy of the DuckDB file for readers that keep it open."
    )
    sink_read_copy_interval_s: float = Field(default=0.0, description="Seconds that a read copy is kept at least.")
    sink_storage_version: str = Field(
        default="v1.5.0", description="The oldest DuckDB that can read a new file, or `latest`."
    )
    memory_limit: str = Field(default="512MB", description="Memory of a run, which DuckDB and flushes divide.")
    sink_memory_limit: str | None = Field(default=None, description="DuckDB's memory_limit; default: a share.")
    flush_size: int = Field(default=250_000, description="Flush after this many changes.")
    flush_interval_ms: int = Field(default=10_000, description="Flush after this many milliseconds.")
    flush_max_bytes: str | None = Field(
        default=None, description="Apply changes after this many received bytes; default: a share of memory_limit."
    )
    flush_idle_wal_bytes: str = Field(
        default="16MB", description="Move the checkpoint past WAL without captured changes once it is this much."
    )
    do_snapshot: bool = Field(default=True, description="Copy the rows that exist before the first change.")
    snapshot_chunk_size: int = Field(default=500_000, description="Rows that a worker copies at a time.")
    snapshot_parallel_workers: int | None = Field(
        default=None, description="Connections that copy one table at the same time; default: processors, at most 4."
    )
    max_changes: int | None = Field(default=None, description="End the window after this many changes.")
    max_bytes: str | None = Field(default=None, description="End the window after this many received bytes.")
    max_seconds: float | None = Field(default=None, description="End the window after this many seconds.")

    @field_validator("source_url", mode="after")
    @classmethod
    def _redact_source_url(cls, value: str) -> str:
        """Redact the password: Dagster's UI and `repr` show all fields."""
        return value if isinstance(value, dg.EnvVar) else secret_fields.redact_url(value)

    @field_validator("mask_key", mode="after")
    @classmethod
    def _redact_mask_key(cls, value: str | None) -> str | None:
        """Redact the key: Dagster's UI and `repr` show all fields."""
        return value if value is None or isinstance(value, dg.EnvVar) else secret_fields.redact_secret(value)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> DbmazzResource:
        """Return the resource that environment variables configure, validated now.

        If `env` is None, the variables are those of the process, and the fields of `SOURCE_URL` and `MASK_KEY` are
        references such as `EnvVar("SOURCE_URL")`.

        Raises:
            ConfigError: A required variable is missing, or a variable is malformed; `object` names it.
        """
        settings = Settings.from_env(env)
        if env is not None:
            return cls.from_settings(settings)
        references: dict[str, Any] = {"source_url": dg.EnvVar("SOURCE_URL")}
        if settings.source.mask_key:
            references["mask_key"] = dg.EnvVar("MASK_KEY")
        return cls(**_changed_fields(settings) | references)

    @classmethod
    def from_settings(cls, settings: Settings) -> DbmazzResource:
        """Return the resource with the given settings.

        >>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"})
        >>> DbmazzResource.from_settings(settings).settings() == settings
        True
        """
        return cls(**_changed_fields(settings))

    def settings(self) -> Settings:
        """Return the settings, parsed by the same parsers as environment variables.

        Raises:
            ConfigError: A value is malformed, or a variable that an `EnvVar` refers to is not set.
        """
        texts = {setting.variable: self._text(name) for name, setting in _BY_FIELD.items()}
        return Settings.from_env({variable: text for variable, text in texts.items() if text is not None})

    def table_patterns(self) -> tuple[TablePattern, ...]:
        """Return the parsed field `tables`. Needs neither a database nor `source_url`."""
        return parse_tables(self._text("tables") or "")

    @property
    def slot_name(self) -> str:
        """Name of the slot, also if the field is an `EnvVar`. Needs no `source_url`."""
        setting = _BY_FIELD["slot"]
        return str(setting.parse(setting.variable, self._text("slot") or ""))

    def on_bad_value_policy(self) -> ByTable[BadValuePolicy]:
        """Return the parsed field `on_bad_value`. Needs neither a database nor `source_url`."""
        setting = _BY_FIELD["on_bad_value"]
        policy: ByTable[BadValuePolicy] = setting.parse(setting.variable, self._text("on_bad_value") or setting.default)
        return policy

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags for jobs that capture. The sensor finds unfinished runs of the slot by them.

        >>> DbmazzResource(source_url="postgres://localhost/shop", tables="orders").run_tags
        {'dbmazz/slot': 'dbmazz_slot'}
        """
        return {SLOT_TAG: self.slot_name}

    def pipeline(self) -> Pipeline:
        """Return a pipeline with these settings. It connects when a method needs the databases.

        Raises:
            ConfigError: A value is malformed, or a variable that an `EnvVar` refers to is not set.
        """
        from dbmazz_core.pipeline import Pipeline  # psycopg and DuckDB, without which definitions load

        return Pipeline(self.settings())

    def capture(
        self,
        context: dg.AssetExecutionContext,
        *,
        config: DbmazzConfig | None = None,
        unchanged: Unchanged = "skip",
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """Run one bounded window and yield its results for the assets of `@dbmazz_assets`.

        A slot carries the changes of all tables, so a window applies them all. Selected assets yield
        `MaterializeResult`. Changed assets that are not selected are logged as `AssetMaterialization`, and so is the
        checkpoint. The first window of a slot sets up the source and copies the tables. A table that an error keeps
        from streaming fails its check `is_streaming`; the run succeeds, since the other tables were captured.

            @dbmazz_assets(shop)
            def shop_tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource, config: DbmazzConfig):
                yield from dbmazz.capture(context, config=config)

        Args:
            context: Context of a function that `@dbmazz_assets` decorates.
            config: Limits and tables to re-snapshot, from the run's configuration.
            unchanged: What a selected table without changes yields. `skip` yields nothing: Dagster shows the asset as
                skipped, and runs nothing downstream. `observe` logs an observation with the row count. `materialize`
                yields a materialization. A table without any materialization in this Dagster instance is materialized
                in all three cases, since its data exists.

        Raises:
            dagster.Failure: dbmazz raised an error; its remedy is in the metadata. Retries are allowed if the error is
                transient.
        """
        with dbmazz_failures(context):
            yield from run_window(self.pipeline(), context, config or DbmazzConfig(), unchanged)

    def _text(self, name: str) -> str | None:
        """Return a field as the text of its environment variable, None if it is not given."""
        value = getattr(self, name)
        if isinstance(value, dg.EnvVar) or hasattr(value, "env_var_name"):
            variable = value.env_var_name
            value = value.get_value()
            if value is None:
                raise ConfigError(
                    f"{variable} is not set, which {name} of DbmazzResource refers to",
                    object=variable,
                    remedy=f"set {variable} in the environment of the code location and of its runs",
                )
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None:
            return None
        return secret_fields.reveal(str(value)) if name in ("source_url", "mask_key") else str(value)


def _changed_fields(settings: Settings) -> dict[str, Any]:
    """Return the fields whose settings differ from the defaults, so that Dagster's UI shows only these."""
    defaults = Settings(SourceConfig(settings.source.url, settings.source.tables))
    fields: dict[str, Any] = {
        "source_url": settings.source.url.reveal(),
        "tables": format_tables(settings.source.tables),
    }
    for name, setting in _BY_FIELD.items():
        value = getattr(getattr(settings, setting.group), setting.attribute)
        if name in fields or value == getattr(getattr(defaults, setting.group), setting.attribute):
            continue
        annotation = str(DbmazzResource.model_fields[name].annotation)
        fields[name] = str(value) if "str" in annotation else value
    return fields
