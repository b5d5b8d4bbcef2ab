"""Definitions load without a database, say what is missing, and show no password."""

# No postponed annotations here: Dagster reads the annotations of an asset's function as objects.

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import dbmazz_dagster
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.variables import SETTINGS
from dbmazz_dagster import (
    DagsterDbmazzTranslator,
    DbmazzResource,
    DbmazzTableProps,
    build_dbmazz_sensor,
    build_definitions,
    build_source_asset_specs,
    dbmazz_assets,
)
from tests.dagster.conftest import Shop, key

ROOT = Path(__file__).parents[2]
SECRET = "s3cret-w0rd"
KEY = "k3y-of-h4shes"
NOWHERE = {"SOURCE_URL": f"postgres://app:{SECRET}@127.0.0.1:1/shop", "TABLES": "public.orders, sales.items"}


def load(home: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in {s.variable for s in SETTINGS}}
    return subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        cwd=ROOT,
        env=clean | env | {"DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_public_surface() -> None:
    assert dbmazz_dagster.__all__ == [
        "DagsterDbmazzTranslator",
        "DbmazzConfig",
        "DbmazzIOManager",
        "DbmazzReader",
        "DbmazzResource",
        "DbmazzTableProps",
        "build_dbmazz_checks",
        "build_dbmazz_sensor",
        "build_definitions",
        "build_source_asset_specs",
        "dbmazz_assets",
        "follow_changes",
    ]
    for name in dbmazz_dagster.__all__:
        assert getattr(dbmazz_dagster, name).__doc__, name


def test_examples_of_the_docstrings() -> None:
    for module in pkgutil.iter_modules(dbmazz_dagster.__path__):
        if module.name not in ("definitions", "demo"):  # they read the environment when they load
            loaded = importlib.import_module(f"dbmazz_dagster.{module.name}")
            assert doctest.testmod(loaded).failed == 0, module.name


def test_workspace_loads_without_a_database(tmp_path: Path) -> None:
    loaded = load(tmp_path, NOWHERE)
    assert loaded.returncode == 0, loaded.stderr
    assert SECRET not in loaded.stdout + loaded.stderr


@pytest.mark.parametrize("missing", ["SOURCE_URL", "TABLES"])
def test_missing_variable_is_named(missing: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, {name: value for name, value in NOWHERE.items() if name != missing})
    assert loaded.returncode != 0
    said = loaded.stdout + loaded.stderr
    assert f"{missing} is not set" in said
    assert "what to do" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DBMAZZ_SENSOR", "perhaps"),
        ("DBMAZZ_SENSOR_INTERVAL_S", "often"),
        ("DBMAZZ_SCHEDULE_MINUTES", "60"),
        ("DBMAZZ_RESOLVE_TABLES", "maybe"),
    ],
)
def test_malformed_variable_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as error:
        build_definitions(Settings.from_env(NOWHERE))
    assert error.value.object == variable


def test_everything_is_there() -> None:
    definitions = build_definitions(Settings.from_env(NOWHERE))
    dg.Definitions.validate_loadable(definitions)
    schedule = definitions.resolve_schedule_def("dbmazz_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "dbmazz_capture"
    sensor = definitions.resolve_sensor_def("dbmazz_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    job = definitions.resolve_job_def("dbmazz_capture")
    assert job.tags["dbmazz/slot"] == "dbmazz_slot"
    assert job.executor_def is dg.in_process_executor


def test_sensor_can_start_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBMAZZ_SENSOR", "stopped")
    sensor = build_definitions(Settings.from_env(NOWHERE)).resolve_sensor_def("dbmazz_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_lineage_kinds_and_freshness() -> None:
    graph = build_definitions(Settings.from_env(NOWHERE)).resolve_asset_graph()
    orders = graph.get(key("public", "orders"))
    assert orders.parent_keys == {key("postgres", "public", "orders")}
    assert not graph.get(key("postgres", "public", "orders")).is_materializable
    assert set(orders.kinds) == {"postgres", "duckdb"}
    assert orders.metadata["dagster/table_name"] == "dbmazz.public.orders"
    assert graph.get(key("dbmazz", "dbmazz_slot")).freshness_policy is not None


def test_schedule_skips_while_a_run_is_under_way(instance: dg.DagsterInstance) -> None:
    definitions = build_definitions(Settings.from_env(NOWHERE))
    schedule = definitions.resolve_schedule_def("dbmazz_schedule")

    def requests() -> int:
        context = dg.build_schedule_context(instance=instance)
        return len(schedule.evaluate_tick(context).run_requests or [])

    assert requests() == 1
    instance.create_run_for_job(
        definitions.resolve_job_def("dbmazz_capture"),
        tags={"dbmazz/slot": "dbmazz_slot"},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert requests() == 0


def test_merge_with_own_definitions() -> None:
    @dg.asset(deps=[key("public", "orders")], automation_condition=dg.AutomationCondition.eager())
    def daily_revenue() -> None: ...

    merged = dg.Definitions.merge(build_definitions(Settings.from_env(NOWHERE)), dg.Definitions(assets=[daily_revenue]))
    assert merged.resolve_asset_graph().get(key("daily_revenue")).parent_keys == {key("public", "orders")}


def test_two_captures_in_one_code_location() -> None:
    other = Settings.from_env({**NOWHERE, "SOURCE_SLOT_NAME": "other", "TABLES": "public.customers"})
    merged = dg.Definitions.merge(build_definitions(Settings.from_env(NOWHERE)), build_definitions(other, name="other"))
    dg.Definitions.validate_loadable(merged)


def test_schema_pattern_needs_the_database_to_be_asked() -> None:
    settings = Settings.from_env({**NOWHERE, "TABLES": "public.orders, sales.*"})
    with pytest.raises(ConfigError) as error:
        build_definitions(settings)
    assert error.value.object == "TABLES"
    assert "sales.*" in error.value.what
    assert "resolve_patterns" in error.value.remedy


def test_schema_pattern_resolved(shop: Shop) -> None:
    wide = shop.with_env(TABLES="public.*")
    wide.options["resolve_patterns"] = True
    keys = wide.definitions().resolve_asset_graph().materializable_asset_keys
    assert keys == {*(key("public", t) for t in ("customers", "orders", "unrelated")), shop.checkpoint}


def test_names_that_dagster_does_not_take(shop: Shop) -> None:
    """Quoted, with spaces, accents and punctuation: captured, each as an asset of its own."""
    shop.database.execute('CREATE TABLE "Größe, cm" (id int PRIMARY KEY); INSERT INTO "Größe, cm" VALUES (1)')
    shop.database.execute('CREATE TABLE "Größe; cm" (id int PRIMARY KEY)')
    strange = shop.with_env(TABLES='"Größe, cm", "Größe; cm"')
    result = strange.run()
    assert result.success
    assert len(strange.materializations(result)) == 3


def test_translator() -> None:
    class Named(DagsterDbmazzTranslator):
        def get_asset_spec(self, props: DbmazzTableProps) -> dg.AssetSpec:
            return super().get_asset_spec(props).replace_attributes(key=["raw", props.table.name])

    definitions = build_definitions(
        Settings.from_env(NOWHERE), translator=Named(owners=["team:data"], tags={"tier": "gold"})
    )
    orders = definitions.resolve_asset_graph().get(key("raw", "orders"))
    assert orders.owners == ["team:data"]
    assert orders.tags["tier"] == "gold"


def test_own_definitions_in_ten_lines(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/dagster.md shows."""
    monkeypatch.setenv("MY_SHOP_URL", shop.env["SOURCE_URL"])
    own = DbmazzResource(
        source_url=dg.EnvVar("MY_SHOP_URL"),
        tables="public.orders, public.customers",
        slot=shop.slot,
        sink_url=str(shop.destination),
    )

    @dbmazz_assets(own)
    def shop_tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource):  # type: ignore[no-untyped-def]
        yield from dbmazz.capture(context)

    definitions = dg.Definitions(
        assets=[shop_tables, *build_source_asset_specs(own)],
        resources={"dbmazz": own},
        sensors=[build_dbmazz_sensor(own, target=shop_tables)],
    )
    dg.Definitions.validate_loadable(definitions)
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=shop.instance).success
    shop.equal()


def test_fields_are_the_settings() -> None:
    """Every setting of windows is a field, named as its flag, with the default that the engine has."""
    flags = {s.flag.removeprefix("--").replace("-", "_") for s in SETTINGS if s.group != "follow"}
    assert set(DbmazzResource.model_fields) == flags
    minimal = {"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"}
    plain = DbmazzResource(source_url=minimal["SOURCE_URL"], tables=minimal["TABLES"])
    assert plain.settings() == Settings.from_env(minimal)


def test_settings_survive_the_resource() -> None:
    given = {
        **NOWHERE,
        "TABLES": 'orders, "My Schema"."Order, Items"',
        "REPLICA_IDENTITY": "full",
        "CLEANUP_ON_STOP": "yes",
        "SOURCE_BINARY": "no",
        "SINK_URL": "duckdb://shop.duckdb",
        "SINK_LOCK_TIMEOUT_S": "1.5",
        "SINK_WHEN_LOCKED": "skip",
        "SINK_READ_COPY": "shop.read.duckdb",
        "SINK_READ_COPY_INTERVAL_S": "60",
        "SINK_STORAGE_VERSION": "latest",
        "MEMORY_LIMIT": "1GB",
        "SINK_MEMORY_LIMIT": "2GB",
        "FLUSH_SIZE": "1_000",
        "FLUSH_MAX_BYTES": "32MB",
        "FLUSH_IDLE_WAL_BYTES": "64MB",
        "DO_SNAPSHOT": "no",
        "WINDOW_MAX_CHANGES": "5",
        "WINDOW_MAX_BYTES": "5MB",
        "WINDOW_MAX_SECONDS": "1.5",
        "COLUMNS_INCLUDE": "a.id, b.id",
        "COLUMNS_EXCLUDE": 'a."Top Secret"',
        "COLUMNS_MASK": "a.mail=hash, a.phone=truncate:3, sales.b.note=null",
        "MASK_KEY": "a key, such as this",
        "COLUMNS_AS_TEXT": "a.tags",
        "NUMERIC_AS": "double",
        "MODE": "soft_delete, a=changelog, sales.*=mirror",
        "ON_BAD_VALUE": "quarantine, a=error",
        "ON_TABLE_ERROR": "stop, sales.*=isolate",
        "SCHEMA_CHANGES": "stop, drop_column=ignore, a:change_type=apply, sales.*=ignore",
    }
    assert {s.variable for s in SETTINGS} - given.keys() <= {
        "SOURCE_TYPE", "SINK_TYPE", "SOURCE_SLOT_NAME", "SOURCE_PUBLICATION_NAME", "FLUSH_INTERVAL_MS",
        "SNAPSHOT_CHUNK_SIZE", "SNAPSHOT_PARALLEL_WORKERS",
        *(s.variable for s in SETTINGS if s.group == "follow"),  # windows do not use them
    }  # fmt: skip
    assert DbmazzResource.from_env(given).settings() == Settings.from_env(given)


def test_variables_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_URL", NOWHERE["SOURCE_URL"])
    monkeypatch.setenv("MY_TABLES", "orders")
    monkeypatch.setenv("MY_SIZE", "7")
    resource = DbmazzResource(
        source_url=dg.EnvVar("MY_URL"), tables=dg.EnvVar("MY_TABLES"), flush_size=dg.EnvVar.int("MY_SIZE")
    )
    settings = resource.settings()
    assert settings.flush.size == 7
    assert settings.source.url.reveal() == NOWHERE["SOURCE_URL"]
    assert [spec.key for spec in build_source_asset_specs(resource)] == [key("postgres", "public", "orders")]


def test_no_password_in_anything_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_URL", NOWHERE["SOURCE_URL"])
    monkeypatch.setenv("TABLES", NOWHERE["TABLES"])
    monkeypatch.setenv("MASK_KEY", KEY)
    for resource in (DbmazzResource.from_env(), DbmazzResource.from_env({**NOWHERE, "MASK_KEY": KEY})):
        definitions = dg.Definitions(resources={"dbmazz": resource})
        shown = dg.serialize_value(
            importlib.import_module("dagster._core.remote_representation.external_data").RepositorySnap.from_def(
                definitions.get_repository_def()
            )
        )
        assert "dbmazz_slot" in shown or "source_url" in shown
        said = shown + repr(resource) + str(resource) + str(resource.model_dump()) + repr(resource.settings())
        assert SECRET not in said
        assert KEY not in said
        assert resource.settings().source.mask_key == KEY


def test_an_unreadable_url_is_not_shown_either() -> None:
    resource = DbmazzResource(source_url=f"postgres://app:{SECRET}@[/shop", tables="orders")
    assert SECRET not in repr(resource)
    with pytest.raises(ConfigError) as error:
        resource.settings()
    assert SECRET not in str(error.value)


def test_definitions_load_without_what_only_a_run_needs(tmp_path: Path) -> None:
    """Each import counts in every start of a code server and of a worker."""
    code = (
        "import sys; from dbmazz_dagster.definitions import defs; defs.resolve_all_asset_specs(); "
        "print({'polars', 'numpy', 'pyarrow', 'duckdb', 'psycopg'} & {*sys.modules})"
    )
    environment = {**os.environ, "SOURCE_URL": "postgres://app@db.example/shop", "TABLES": "public.orders"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "{'psycopg'}\n"  # build_definitions reads the URL
