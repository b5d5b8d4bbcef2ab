"""`~` in every setting that holds a local path."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings, SinkConfig
from dbmazz_core.settings.secret_url import SecretUrl
from tests.cli.command import Dbmazz
from tests.support.lab import Lab

REQUIRED = {"SOURCE_URL": "postgres://app:s3cret@db/shop", "TABLES": "orders"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def test_home_in_the_path_of_the_destination(home: Path) -> None:
    assert SinkConfig(url="~/x.duckdb").url == f"{home}/x.duckdb"
    for text in ("~/x.duckdb", "duckdb://~/x.duckdb"):
        assert Settings.from_env(REQUIRED | {"SINK_URL": text}).sink.url == f"{home}/x.duckdb"
    for text in ("./~/x.duckdb", "data/~x.duckdb", "/data/~"):
        assert Settings.from_env(REQUIRED | {"SINK_URL": text}).sink.url == text
    assert SinkConfig(url="~root/x.duckdb").url.endswith("/x.duckdb")


def test_home_of_an_unknown_user() -> None:
    with pytest.raises(ConfigError, match="SINK_URL begins with ~nobody-has-this-name") as caught:
        Settings.from_env(REQUIRED | {"SINK_URL": "~nobody-has-this-name/x.duckdb"})
    assert caught.value.object == "SINK_URL"
    assert "./~nobody-has-this-name" in caught.value.remedy


@pytest.mark.parametrize("option", ["passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"])
@pytest.mark.parametrize(
    "text", ["postgres://app:s3cret@db/shop?{}=~/file", "host=db dbname=shop password=s3cret {}=~/file"]
)
def test_home_in_the_files_of_a_connection(home: Path, option: str, text: str) -> None:
    url = SecretUrl(text.format(option))
    assert url.parameters[option] == f"{home}/file"
    assert SecretUrl(url.reveal()).parameters == url.parameters
    assert "s3cret" not in f"{url!r} {url}"


def test_capture_into_the_home_directory(lab: Lab, home: Path) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.path = home / "x.duckdb"
    dbmazz = Dbmazz.of(lab.database, Path("~/x.duckdb"), lab.tables)
    dbmazz.directory = home.parent
    dbmazz.variables["SOURCE_SLOT_NAME"] = lab.slot
    dbmazz.run("capture")
    lab.assert_equal("t")
    assert not (home.parent / "~").exists()
    (home / "settings.toml").write_text('sink_url = "~/y.duckdb"\n')
    del dbmazz.variables["SINK_URL"]
    dbmazz.run("status", "--config", "~/settings.toml")
    dbmazz.run("snapshot", "--take-over", "--config=~/settings.toml")
    assert (home / "y.duckdb").exists()
