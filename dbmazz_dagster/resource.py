"""The resource: settings as Dagster configuration, and the window that assets run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field, field_validator

from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import BadValuePolicy
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import Settings, SourceConfig
from dbmazz_core.settings.tables import TablePattern, format_tables, parse_tables
from dbmazz_core.settings.variables import SETTINGS, Setting
from dbmazz_dagster import secret_fields
from dbmazz_dagster.failures import dbmazz_failures
from dbmazz_dagster.run_config import DbmazzConfig, Unchanged
from dbmazz_dagster.tags import SLOT_TAG
from dbmazz_dagster.window import run_window

_BY_FIELD: dict[str, Setting] = {s.flag.removeprefix("--").replace("-", "_"): s for s in SETTINGS}


class DbmazzResource(dg.ConfigurableResource["DbmazzResource"]):
    """One capture: a PostgreSQL source, its tables, a slot, and the DuckDB file they go to.

    Every setting of the `dbmazz` command is a field, named as its flag, with the same default, and read by
    the same reader: a bad value is the same `ConfigError`.

        import dagster as dg
        from dbmazz_dagster import DbmazzResource

        shop = DbmazzResource(
            source_url=dg.EnvVar("SOURCE_URL"),
            tables="public.orders, public.customers",
            sink_url="shop.duckdb",
        )

    Give `source_url` as `EnvVar`: Dagster's UI then shows the variable's name. A URL given as text works as
    well; its password is taken out before anything can show it.

    >>> DbmazzResource(source_url="postgres://app:s3cret@db/shop", tables="orders").source_url
    'postgres://app:***@db/shop'
    """

    source_url: str = Field(description="PostgreSQL URL, any libpq option. Give it as EnvVar.")
    tables: str = Field(description="Comma-separated `schema.table`; quoted names and `schema.*` work.")
    source_type: str = "postgres"
    slot: str = Field(default="dbmazz_slot", description="Replication slot.")
    publication: str = Field(default="dbmazz_pub", description="Publication.")
    replica_identity: str = Field(default="auto", description="`auto`, `full` or `leave`.")
    cleanup_on_stop: bool = Field(default=False, description="Drop slot and publication on a graceful stop.")
    columns_include: str | None = Field(default=None, description="Of tables named here, only these columns.")
    columns_exclude: str | None = Field(default=None, description="Columns that are not captured.")
    columns_mask: str | None = Field(default=None, description="Columns to mask: `users.email=hash`.")
    mask_key: str | None = Field(default=None, description="Secret that goes into hashes. Give it as EnvVar.")
    columns_as_text: str | None = Field(default=None, description="Columns kept as PostgreSQL's text.")
    numeric_as: str = Field(default="text", description="`text` or `double`, for numeric that no DECIMAL holds.")
    mode: str = Field(default="mirror", description="`mirror`, `soft_delete` or `changelog`, and exceptions.")
    on_bad_value: str = Field(default="error", description="`error` or `quarantine`, and exceptions.")
    schema_changes: str = Field(default="apply", description="`apply`, `ignore` or `stop`, and exceptions.")
    sink_type: str = "duckdb"
    sink_url: str = Field(default="dbmazz.duckdb", description="Path of the DuckDB file.")
    sink_lock_timeout_s: float = Field(default=10.0, description="Seconds to wait for the file's lock.")
    sink_memory_limit: str = Field(default="1GB", description="DuckDB's memory_limit.")
    flush_size: int = Field(default=250_000, description="Changes after which a flush is due.")
    flush_interval_ms: int = Field(default=10_000, description="Milliseconds after which a flush is due.")
    flush_max_bytes: str = Field(default="32MB", description="Bytes received after which changes are applied.")
    do_snapshot: bool = Field(default=True, description="Copy existing rows at first.")
    snapshot_chunk_size: int = Field(default=500_000, description="Rows that a worker copies at a time.")
    snapshot_parallel_workers: int = Field(default=1, description="Connections that copy at the same time.")
    max_changes: int | None = Field(default=None, description="Changes after which a window ends.")
    max_bytes: str | None = Field(default=None, description="Bytes received after which a window ends.")
    max_seconds: float | None = Field(default=None, description="Seconds after which a window ends.")

    @field_validator("source_url", mode="after")
    @classmethod
    def _redact_source_url(cls, value: str) -> str:
        """Whatever prints or shows the resource shows its fields: none may hold the password."""
        return value if isinstance(value, dg.EnvVar) else secret_fields.redact_url(value)

    @field_validator("mask_key", mode="after")
    @classmethod
    def _redact_mask_key(cls, value: str | None) -> str | None:
        """As the URL's password."""
        return value if value is None or isinstance(value, dg.EnvVar) else secret_fields.redact_secret(value)

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> DbmazzResource:
        """The resource that the environment describes, validated now.

        From the process environment (`env` is None) the URL stays a reference, `EnvVar("SOURCE_URL")`, and so does
        `MASK_KEY`.

        Raises:
            ConfigError: If a required variable is missing or any is malformed; `object` names it.
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
        """The resource with these settings.

        >>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"})
        >>> DbmazzResource.from_settings(settings).settings() == settings
        True
        """
        return cls(**_changed_fields(settings))

    def settings(self) -> Settings:
        """The settings, read by the same readers as the environment's.

        Raises:
            ConfigError: If a value is malformed, or a variable that an `EnvVar` refers to is not set.
        """
        texts = {setting.variable: self._text(name) for name, setting in _BY_FIELD.items()}
        return Settings.from_env({variable: text for variable, text in texts.items() if text is not None})

    def table_patterns(self) -> tuple[TablePattern, ...]:
        """What `tables` says. Needs no database and no `source_url`."""
        return parse_tables(self._text("tables") or "")

    @property
    def slot_name(self) -> str:
        """The slot, also where the field is an `EnvVar`. Needs no `source_url`."""
        setting = _BY_FIELD["slot"]
        return str(setting.parse(setting.variable, self._text("slot") or ""))

    def on_bad_value_policy(self) -> ByTable[BadValuePolicy]:
        """What `on_bad_value` says. Needs no database and no `source_url`."""
        setting = _BY_FIELD["on_bad_value"]
        policy: ByTable[BadValuePolicy] = setting.parse(setting.variable, self._text("on_bad_value") or setting.default)
        return policy

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags for jobs that capture: by them the sensor sees that a run is under way.

        >>> DbmazzResource(source_url="postgres://localhost/shop", tables="orders").run_tags
        {'dbmazz/slot': 'dbmazz_slot'}
        """
        return {SLOT_TAG: self.slot_name}

    def pipeline(self) -> Pipeline:
        """The engine's pipeline with these settings. It connects when used.

        Raises:
            ConfigError: As `settings`.
        """
        return Pipeline(self.settings())

    def capture(
        self,
        context: dg.AssetExecutionContext,
        *,
        config: DbmazzConfig | None = None,
        unchanged: Unchanged = "skip",
    ) -> Iterator[dg.MaterializeResult[Any]]:
        """Run one bounded window and yield what it did, for the assets of `@dbmazz_assets`.

        A slot carries all tables, so a window always applies all of them: selected assets yield
        `MaterializeResult`, the others that changed are logged as `AssetMaterialization`, and so is the
        checkpoint. The first window of a slot sets up the source and copies the tables.

            @dbmazz_assets(shop)
            def shop_tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource, config: DbmazzConfig):
                yield from dbmazz.capture(context, config=config)

        Args:
            context: Of an asset that `@dbmazz_assets` made.
            config: Limits and re-snapshot, from the run's configuration.
            unchanged: What a selected table without changes yields. `skip`: nothing, which Dagster shows as
                skipped, and nothing downstream runs. `observe`: an observation with its row count.
                `materialize`: a materialization all the same. A table that this Dagster instance has never
                seen materialized is materialized in any case, since its data is there.

        Raises:
            dagster.Failure: For every error of dbmazz, with its remedy as metadata. Retries are allowed where
                another attempt may succeed.
        """
        with dbmazz_failures(context):
            settings = self.settings()
            yield from run_window(Pipeline(settings), settings, context, config or DbmazzConfig(), unchanged)

    def _text(self, name: str) -> str | None:
        """A field as text, the way the environment would have it; None where it is not given."""
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
    """Field values for the settings that differ from their defaults; the UI then shows what was chosen."""
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
