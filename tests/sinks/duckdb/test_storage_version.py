"""A file, and its read copy, can be read by the oldest DuckDB that is supported, whatever DuckDB has created it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.errors import ConfigError, DestinationLocked
from dbmazz_core.settings.config import Settings, SinkConfig
from tests.support.lab import Lab

#: A directory with DuckDB 1.5 (`make test` installs it), in an environment of its own.
OLDEST = os.environ.get("DBMAZZ_OLDEST_DUCKDB", "")
NEEDS_OLDEST = pytest.mark.skipif(not OLDEST, reason="DBMAZZ_OLDEST_DUCKDB names no directory with DuckDB 1.5")


@pytest.fixture
def shop(lab: Lab, tmp_path: Path) -> Lab:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')")
    return configured(lab, read_copy=str(tmp_path / "shop.read.duckdb"))


def configured(lab: Lab, **options: object) -> Lab:
    return lab.configured(sink=replace(lab.settings.get("sink", SinkConfig(url=str(lab.path))), **options))


def read_by_oldest(path: str | Path) -> str:
    """What the oldest supported DuckDB prints of the table t."""
    code = "import sys, duckdb; print(duckdb.__version__, duckdb.connect(sys.argv[1], read_only=True).sql("
    code += "'FROM public.t ORDER BY id').fetchall())"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": OLDEST},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout or done.stderr


@NEEDS_OLDEST
def test_the_oldest_supported_duckdb_reads_the_file_and_its_copy(shop: Lab) -> None:
    shop.capture()
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    shop.capture()
    for path in (shop.path, shop.settings["sink"].read_copy):
        found = read_by_oldest(path)
        assert found.startswith("1.5.")
        assert "[(1, 'a'), (2, 'b')]" in found


@NEEDS_OLDEST
@pytest.mark.skipif(duckdb.__version__.startswith("1."), reason="DuckDB 1 writes no newer files")
def test_a_newer_file_is_refused_by_it_until_it_is_rewritten(shop: Lab) -> None:
    configured(shop, storage_version="latest").capture()
    assert "storage" in read_by_oldest(shop.path)
    with duckdb.connect(str(shop.path)) as connection:
        connection.execute("CREATE SCHEMA marts; CREATE TABLE marts.daily AS SELECT 7 AS n")
        connection.execute("CREATE VIEW marts.last AS SELECT max(n) AS n FROM marts.daily")
    assert "DuckDB v2" in str(shop.pipeline.status().format)
    done = shop.pipeline.rewrite()
    assert "was written anew: DuckDB v1.5.0 and later can read it (before: v2" in done
    assert "[(1, 'a')]" in read_by_oldest(shop.path)
    assert shop.rows("FROM marts.last") == [(7,)]
    shop.execute("INSERT INTO t VALUES (2, 'b')")
    shop.capture_and_compare("t")
    assert "[(1, 'a'), (2, 'b')]" in read_by_oldest(shop.path)


def test_status_and_check_tell_which_versions_read_the_file(shop: Lab) -> None:
    shop.capture()
    assert shop.pipeline.status().format == "DuckDB v1.5.0 and later"
    assert f"DuckDB v1.5.0 and later can read {shop.path}" in [f.what for f in shop.pipeline.check().findings]


def test_an_existing_file_keeps_its_version(shop: Lab) -> None:
    with duckdb.connect(str(shop.path), config={"storage_compatibility_version": "v1.2.0"}) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS n")
    shop.capture_and_compare("t")
    assert shop.pipeline.status().format == "DuckDB v1.2.0 and later"


def test_a_file_that_somebody_reads_is_not_rewritten(shop: Lab) -> None:
    shop.capture()
    shop = configured(shop, lock_timeout_s=0.1)
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1], read_only=True); print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(shop.path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        with pytest.raises(DestinationLocked):
            shop.pipeline.rewrite()
        reader.communicate()
    shop.assert_equal("t")
    assert [path.name for path in shop.path.parent.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("text", ["2", "newest", "v1.5", "1.5.0; DROP"])
def test_a_malformed_version_is_an_error_of_the_settings(text: str) -> None:
    env = {"SOURCE_URL": "postgres://localhost/shop", "TABLES": "t", "SINK_STORAGE_VERSION": text}
    with pytest.raises(ConfigError, match=r"a version of DuckDB, such as v1\.5\.0"):
        Settings.from_env(env)
