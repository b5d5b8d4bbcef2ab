"""Settings from flags, environment and file, in this order."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from dbmazz_core.cli.settings import load_settings, read_file
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.variables import SETTINGS, Setting
from tests.cli.command import Dbmazz
from tests.support.postgres_fixtures import SourceDatabase

BASE = {"SOURCE_URL": "postgres://localhost/shop", "TABLES": "public.orders"}

#: Two values of each setting, neither of them the default.
SAMPLES: dict[str, tuple[str, str]] = {
    "SOURCE_URL": ("postgres://a/shop", "postgres://b/shop"),
    "TABLES": ("public.a", "public.b"),
    "SOURCE_TYPE": ("postgres", "postgres"),
    "SOURCE_SLOT_NAME": ("slot_a", "slot_b"),
    "SOURCE_PUBLICATION_NAME": ("pub_a", "pub_b"),
    "REPLICA_IDENTITY": ("full", "leave"),
    "CLEANUP_ON_STOP": ("true", "false"),
    "SOURCE_BINARY": ("false", "true"),
    "COLUMNS_INCLUDE": ("public.a.id", "public.b.id, public.b.n"),
    "COLUMNS_EXCLUDE": ("public.a.secret", 'public.a."Top Secret"'),
    "COLUMNS_MASK": ("public.a.mail=hash", "public.a.mail=truncate:3, public.a.n=null"),
    "MASK_KEY": ("one", "two"),
    "COLUMNS_AS_TEXT": ("public.a.tags", "a.tags"),
    "NUMERIC_AS": ("double", "text"),
    "MODE": ("soft_delete", "mirror, public.a=changelog, sales.*=soft_delete"),
    "ON_BAD_VALUE": ("quarantine", "error, public.a=quarantine"),
    "ON_TABLE_ERROR": ("stop", "isolate, public.a=stop"),
    "SCHEMA_CHANGES": ("stop", "ignore, drop_column=stop, public.a:change_type=apply, sales.*=stop"),
    "SINK_TYPE": ("duckdb", "duckdb"),
    "SINK_URL": ("a.duckdb", "b.duckdb"),
    "SINK_LOCK_TIMEOUT_S": ("1.5", "2"),
    "SINK_WHEN_LOCKED": ("skip", "fail"),
    "SINK_READ_COPY": ("a.read.duckdb", "duckdb://b.read.duckdb"),
    "SINK_READ_COPY_INTERVAL_S": ("60", "61.5"),
    "SINK_STORAGE_VERSION": ("latest", "1.5.2"),
    "MEMORY_LIMIT": ("1GB", "2GB"),
    "SINK_MEMORY_LIMIT": ("2GB", "3GB"),
    "FLUSH_SIZE": ("11", "12"),
    "FLUSH_INTERVAL_MS": ("13", "14"),
    "FLUSH_MAX_BYTES": ("5MB", "6MB"),
    "FLUSH_IDLE_WAL_BYTES": ("7MB", "8MB"),
    "DO_SNAPSHOT": ("false", "true"),
    "SNAPSHOT_CHUNK_SIZE": ("15", "16"),
    "SNAPSHOT_PARALLEL_WORKERS": ("2", "3"),
    "WINDOW_MAX_CHANGES": ("17", "18"),
    "WINDOW_MAX_BYTES": ("7MB", "8MB"),
    "WINDOW_MAX_SECONDS": ("19", "20"),
    "FOLLOW_INTERVAL_MS": ("21", "22"),
    "FOLLOW_LOOK_INTERVAL_S": ("23", "24.5"),
    "FOLLOW_RETRY_TIMEOUT_S": ("25", "26"),
    "METRICS": ("127.0.0.1:9187", "[::1]:9188"),
}


def value_of(settings: Settings, setting: Setting) -> object:
    return getattr(getattr(settings, setting.group), setting.attribute)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.variable)
def test_every_setting_by_flag_environment_and_file(setting: Setting, tmp_path: Path) -> None:
    first, second = SAMPLES[setting.variable]
    key, path = setting.variable.lower(), tmp_path / "dbmazz.toml"
    path.write_text(f'{key} = "{first}"\n')
    base = {k: v for k, v in BASE.items() if k != setting.variable}
    expected = [value_of(Settings.from_env(base | {setting.variable: text}), setting) for text in (first, second)]

    from_file = load_settings({}, path, env=base)
    from_env = load_settings({}, path, env=base | {setting.variable: second})
    from_flag = load_settings({key: first}, path, env=base | {setting.variable: second})
    assert [value_of(from_file, setting), value_of(from_env, setting), value_of(from_flag, setting)] == [
        expected[0],
        expected[1],
        expected[0],
    ]


def test_the_registry_has_every_field_of_the_settings() -> None:
    settings = Settings.from_env(BASE)
    listed = {(s.group, s.attribute) for s in SETTINGS}
    assert listed == {(g.name, f.name) for g in fields(Settings) for f in fields(getattr(settings, g.name))}


def test_file_with_values_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "dbmazz.toml"
    path.write_text(
        'tables = ["public.orders", \'sales."Order, Items"\']\n'
        "flush_size = 1_000\nsink_lock_timeout_s = 0.5\ndo_snapshot = false\n"
    )
    settings = load_settings({}, path, env={"SOURCE_URL": "postgres://localhost/shop"})
    assert [str(table) for table in settings.source.tables] == ["public.orders", 'sales."Order, Items"']
    assert (settings.flush.size, settings.sink.lock_timeout_s, settings.snapshot.enabled) == (1000, 0.5, False)


@pytest.mark.parametrize(
    ("content", "names", "what"),
    [
        ("flush_sise = 3", "flush_sise", "did you mean flush_size?"),
        ("FLUSH_SIZE = 3", "FLUSH_SIZE", "did you mean flush_size?"),
        ("[source]\nurl = 'x'", "source", "unknown key 'source'"),
        ("flush_size = [1]", "flush_size", "not a string, a number, true or false"),
        ("tables = [1]", "tables", "not a string or a list of strings"),
        ("flush_size = 'many'", "FLUSH_SIZE", "FLUSH_SIZE='many' is not a whole number"),
        ("flush_size = ''", "FLUSH_SIZE", "FLUSH_SIZE='' is not a whole number"),
        ("source_url = postgres://app:hunter2@db/shop", "dbmazz.toml", "is not a TOML file"),
    ],
)
def test_a_mistake_in_the_file_is_an_error_that_names_it(tmp_path: Path, content: str, names: str, what: str) -> None:
    path = tmp_path / "dbmazz.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings({}, path, env=BASE)
    assert caught.value.object.endswith(names)
    assert what in caught.value.what
    assert "dbmazz.toml" in caught.value.what
    assert caught.value.remedy
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        read_file(tmp_path / "none.toml")


def test_an_empty_variable_counts_as_unset_but_an_empty_flag_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "dbmazz.toml"
    path.write_text("flush_size = 3")
    assert load_settings({}, path, env=BASE | {"FLUSH_SIZE": ""}).flush.size == 3
    with pytest.raises(ConfigError, match=r"FLUSH_SIZE='' is not a whole number.* \(from --flush-size\)"):
        load_settings({"flush_size": ""}, path, env=BASE)


def test_the_command_takes_all_three(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    """Slot: flag over environment over file; tables from the file; nothing else needed."""
    file = duckdb_path.parent / "dbmazz.toml"
    file.write_text('source_slot_name = "from_file"\ntables = ["public.orders"]\n')
    del dbmazz.variables["TABLES"]
    environment = dbmazz.variables.pop("SOURCE_SLOT_NAME")
    configured = ("--config", str(file))
    assert dbmazz.json("status", *configured)["slot"] == "from_file"
    assert dbmazz.json("status", *configured, SOURCE_SLOT_NAME=environment)["slot"] == environment
    by_flag = dbmazz.json("status", *configured, "--slot", "from_flag", SOURCE_SLOT_NAME=environment)
    assert by_flag["slot"] == "from_flag"
    assert dbmazz.json("setup", *configured, "--slot", shop.name)["tables"] == ["public.orders"]
